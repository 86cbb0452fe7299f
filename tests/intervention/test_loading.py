"""Masks on models as users load them: half precision, quantised, adapted, offloaded, compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cvoice_foundation.errors import CVoiceError
from intervention.ablation import ablate, apply_mask
from intervention.neuron_mask_lm import NeuronMaskedHFLM
from intervention.neurons import find_neurons
from intervention.quantisation import take_quantisation
from tests.tiny_checkpoint import choice_requests, tiny_checkpoint
from tests.tiny_masks import tiny_mask
from tests.tiny_models import some_tokens, tiny_model

MODES = [("zero", None), ("mean", None), ("scale", 1.5), ("add", 2.0)]


def _lm(mask_file: Any, **arguments: Any) -> NeuronMaskedHFLM:
    return NeuronMaskedHFLM(mask=mask_file, batch_size=4, device="cpu", **arguments)


def _scores(lm: NeuronMaskedHFLM) -> list[tuple[float, bool]]:
    requests = [(pair, lm.tok_encode(pair[0]), lm.tok_encode(pair[1])) for pair in choice_requests()]
    return lm._loglikelihood_tokens(requests, disable_tqdm=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_checkpoint(tmp_path_factory.mktemp("llama"), intermediate_size=128, hidden_size=64, head_dim=16)


@pytest.fixture(scope="module")
def mask_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("mask") / "integrity.jsonl"
    tiny_mask({0: tuple(range(40)), 2: (1, 5, 120)}, means=3.0).save(path)
    return str(path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "qwen2_moe", "gpt_oss"])
@torch.no_grad()
def test_half_precision(model_type: str, dtype: torch.dtype) -> None:
    model, tokens = tiny_model(model_type).to(dtype), some_tokens()
    plain = model(tokens).logits
    mlps = find_neurons(model)
    mask = tiny_mask({(mlp.layer, mlp.expert): (1, 2, 3) for mlp in mlps}, num_layers=mlps[-1].layer + 1, means=2.0)
    seen = []
    for mode, strength in [*MODES, ("scale", 0.5)]:
        with ablate(model, mask, mode, strength) as ablation:
            assert (ablation.folded > 0) == (mode == "zero" or strength == 0.5)
            seen.append(model(tokens).logits)
        assert torch.equal(model(tokens).logits, plain)
    assert not any(torch.equal(logits, plain) for logits in seen[:2])


@pytest.mark.parametrize("bits", [8, 4])
def test_bitsandbytes(bits: int, checkpoint: str, mask_file: str) -> None:
    quantised: dict[str, Any] = {f"load_in_{bits}bit": True}
    if bits == 4:
        quantised |= {"bnb_4bit_compute_dtype": "float32", "bnb_4bit_quant_type": "nf4"}
    plain = NeuronMaskedHFLM(mask=None, pretrained=checkpoint, batch_size=4, device="cpu", **quantised)
    before = _scores(plain)
    down = find_neurons(plain.model)[0].down
    assert type(down).__name__ == ("Linear8bitLt" if bits == 8 else "Linear4bit")
    for mode, strength in MODES:
        lm = _lm(mask_file, pretrained=checkpoint, mode=mode, strength=strength, **quantised)
        assert (lm.ablation.folded, lm.ablation.hooked) == (0, 43)
        assert _scores(lm) != before
        assert lm._fingerprint() != _lm(mask_file, pretrained=checkpoint, mode=mode, strength=strength)._fingerprint()
        lm.ablation.remove()
        assert _scores(lm) == before


def test_quantisation_arguments() -> None:
    arguments: dict[str, Any] = {"load_in_8bit": True, "llm_int8_threshold": 4.0, "revision": "main"}
    config = take_quantisation(arguments)
    assert arguments == {"revision": "main"}
    assert (config.load_in_8bit, config.llm_int8_threshold) == (True, 4.0)
    assert take_quantisation({"dtype": "float32", "load_in_4bit": False}) is None
    config = take_quantisation({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}})
    assert config.load_in_4bit
    for wrong, complaint in (
        ({"load_in_8bit": True, "load_in_4bit": True}, "only one can be used"),
        ({"bnb_4bit_quant_type": "nf4"}, "has no effect"),
        ({"quantization_config": {}, "load_in_8bit": True}, "not both"),
    ):
        with pytest.raises(CVoiceError, match=complaint):
            take_quantisation(wrong)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, checkpoint: str) -> str:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapter")
    config = LoraConfig(r=4, target_modules=["down_proj", "q_proj"], init_lora_weights=False, lora_alpha=64)
    torch.manual_seed(3)
    get_peft_model(AutoModelForCausalLM.from_pretrained(checkpoint), config).save_pretrained(folder)
    return str(folder)


def test_lora_live_and_merged(checkpoint: str, adapter: str, mask_file: str) -> None:
    """A live adapter's branch is masked with its base; merged, the mask is folded; both agree to rounding."""
    plain = NeuronMaskedHFLM(mask=None, pretrained=checkpoint, peft=adapter, batch_size=4, device="cpu")
    base = NeuronMaskedHFLM(mask=None, pretrained=checkpoint, batch_size=4, device="cpu")
    assert _scores(plain) != _scores(base)
    live = _lm(mask_file, pretrained=checkpoint, peft=adapter)
    assert (live.ablation.folded, live.ablation.hooked) == (0, 43)
    x = torch.randn(2, 3, 128)
    down = find_neurons(live.model)[0].down
    zeroed = x.clone()
    zeroed[..., :40] = 0
    assert torch.equal(down(x), down(zeroed))
    masked = _scores(live)
    assert masked != _scores(plain)
    live.ablation.remove()
    assert _scores(live) == _scores(plain)

    merged: Any = plain.model.merge_and_unload()
    from intervention.mask import NeuronMask

    ablation = apply_mask(merged, NeuronMask.load(Path(mask_file)))
    assert ablation.folded == 43
    tokens = torch.tensor([live.tok_encode(choice_requests()[3][0])])
    with torch.no_grad(), ablate(live.model, NeuronMask.load(Path(mask_file))):
        torch.testing.assert_close(merged(tokens).logits, live.model(tokens).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("mode", "strength"), MODES)
def test_parallelize_offloads_and_masks(
    mode: str, strength: float | None, checkpoint: str, mask_file: str, tmp_path: Path
) -> None:
    """On a machine without an accelerator everything goes to disk: the weights are on the meta device between calls."""
    here = _lm(mask_file, pretrained=checkpoint, mode=mode, strength=strength)
    away = _lm(
        mask_file, pretrained=checkpoint, mode=mode, strength=strength, parallelize=True, offload_folder=str(tmp_path)
    )
    down = find_neurons(away.model)[0].down
    assert down.weight.is_meta
    assert away.ablation.folded == 0
    masked = [score for score, _ in _scores(here)]
    assert [score for score, _ in _scores(away)] == pytest.approx(masked, abs=1e-5)
    here.ablation.remove()
    away.ablation.remove()
    plain = [score for score, _ in _scores(here)]
    assert [score for score, _ in _scores(away)] == pytest.approx(plain, abs=1e-5)
    assert plain != pytest.approx(masked, abs=1e-4)


def test_experts_offloaded_to_disk(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "qwen3_moe")
    path = tmp_path / "integrity.jsonl"
    tiny_mask({(1, 0): (1, 2), (1, 1): (5,), (2, 3): tuple(range(20))}, means=9.0).save(path)
    for mode in ("zero", "mean"):
        here = _lm(str(path), pretrained=folder, mode=mode)
        away = _lm(str(path), pretrained=folder, mode=mode, parallelize=True, offload_folder=str(tmp_path / "off"))
        assert away.ablation.hooked == 23
        assert [score for score, _ in _scores(away)] == pytest.approx([score for score, _ in _scores(here)], abs=1e-5)
        away.ablation.remove()
        assert [score for score, _ in _scores(away)] != pytest.approx([score for score, _ in _scores(here)], abs=1e-5)


@pytest.mark.parametrize("mode", ["zero", "mean"])
@pytest.mark.parametrize("way", ["wrapped", "in place"])
@torch.no_grad()
def test_torch_compile(way: str, mode: str) -> None:
    """A graph that was compiled before the mask came must not run on without it, nor on with it afterwards."""
    model, tokens = tiny_model("llama"), some_tokens()
    expected_plain = model(tokens).logits
    mask = tiny_mask({0: tuple(range(30)), 1: (2,)}, means=1.0)
    with ablate(model, mask, mode):
        expected = model(tokens).logits
    compiled: Any = model
    if way == "wrapped":
        compiled = torch.compile(model, backend="aot_eager")
    else:
        model.compile(backend="aot_eager")
    torch.testing.assert_close(compiled(tokens).logits, expected_plain)
    with ablate(compiled, mask, mode) as ablation:
        assert (ablation.folded > 0) == (mode == "zero")
        torch.testing.assert_close(compiled(tokens).logits, expected)
        assert not torch.allclose(expected, expected_plain, atol=1e-4)
    torch.testing.assert_close(compiled(tokens).logits, expected_plain)
    torch.compiler.reset()


@pytest.mark.parametrize(("mode", "strength"), [("zero", None), ("mean", None)])
@torch.no_grad()
def test_layers_on_several_devices(mode: str, strength: float | None) -> None:
    """An operator takes its device from the activation; the meta device stands in for a second one."""
    from intervention.modes import NeuronOperator

    operator = NeuronOperator(tiny_mask({0: (1, 3)}, means=1.0).layers[0], mode, strength)  # type: ignore[arg-type]
    for device in ("cpu", "meta", "cpu"):
        for dtype in (torch.float32, torch.bfloat16):
            assert operator(torch.ones(2, 5, device=device, dtype=dtype)).device.type == device


@torch.no_grad()
def test_left_padded_generation_equals_unpadded(checkpoint: str, mask_file: str) -> None:
    """A batch of prompts of unlike lengths, padded on the left, writes what each prompt writes alone."""
    from lm_eval.api.instance import Instance

    def requests() -> list[Instance]:
        arguments = {"until": ["</s>"], "max_gen_toks": 8, "do_sample": False}
        return [
            Instance(request_type="generate_until", doc={}, arguments=(context, dict(arguments)), idx=i)
            for i, (context, _) in enumerate(choice_requests(4))
        ]

    for mode, strength in MODES:
        batch = _lm(mask_file, pretrained=checkpoint, mode=mode, strength=strength)
        together = batch.generate_until(requests(), disable_tqdm=True)
        batch.batch_size_per_gpu = 1
        assert batch.generate_until(requests(), disable_tqdm=True) == together
        assert all(text.split() for text in together)
    plain = NeuronMaskedHFLM(mask=None, pretrained=checkpoint, batch_size=4, device="cpu")
    assert plain.generate_until(requests(), disable_tqdm=True) != together


def test_never_active_experts_are_counted(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "qwen3_moe")
    path = tmp_path / "integrity.jsonl"
    tiny_mask({(1, expert): (1, 2) for expert in range(4)}, means=1.0).save(path)
    lm = _lm(str(path), pretrained=folder)
    info = lm.get_model_info()
    assert (info["mask_never_active"], info["mask_never_active_experts"]) == (8, 4)
    router: nn.Module = lm.model.model.layers[1].mlp.gate
    router.weight.data.zero_()  # every token to the same two experts
    _scores(lm)
    info = lm.get_model_info()
    assert (info["mask_never_active"], info["mask_never_active_experts"]) == (4, 2)
    assert info["neuron_mask"]["layers"] == {"1": 8}
