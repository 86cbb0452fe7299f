"""What only a GPU can show of masking: run it on a machine that has one or more, and read the table.

    python benchmarks/on_gpu.py [--out gpu.json]

Models are tiny and random; nothing is downloaded. Every line is one check, `ok`, `FAILED: why`, or `not here: why`:

- a mask in every mode on each device, in float32, bfloat16 and float16: what is folded equals the CPU's, and the model
  is as before, to the bit, when the mask is taken off;
- the same on a mixture of experts, where transformers runs a grouped kernel that does not exist on the CPU;
- the layers of one model spread over all GPUs, and over a GPU and the CPU's memory, as `parallelize=True` does;
- 8-bit and 4-bit bitsandbytes kernels of the GPU;
- torch.compile with the inductor, for which the CPU's tests use a back end that generates no code.

Data parallel on several GPUs is lm-eval's own: compare the scores of
`torchrun --nproc-per-node 2 -m lm_eval --model neuron_masked_hf ...` with those of one process.

No result of this script is known yet: none of its authors had a GPU at hand.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from intervention.ablation import ablate
from intervention.mask import MaskedLayer, ModelIdentity, NeuronMask
from intervention.neurons import find_neurons

_COMMON = {"vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "pad_token_id": 0}
_DENSE = _COMMON | {"num_key_value_heads": 2, "intermediate_size": 128}
_MIXTURE = _DENSE | {"num_experts": 8, "moe_intermediate_size": 64, "num_experts_per_tok": 2}
_WAYS: tuple[tuple[str, float | None], ...] = (
    ("zero", None),
    ("mean", None),
    ("scale", 1.5),
    ("scale", 2.0),
    ("add", 2.0),
)


class NotHereError(Exception):
    """A check needs what this machine does not have."""


def _model(model_type: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    settings = _DENSE if model_type == "llama" else _MIXTURE
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings), dtype=dtype).eval()


def _mask(model: Any) -> NeuronMask:
    mlps = find_neurons(model)
    lines = tuple(MaskedLayer(mlp.layer, (1, 2, 40), (3.0, -2.0, 5.0), mlp.expert) for mlp in mlps)
    return NeuronMask("check", ModelIdentity(None, None, None, mlps[-1].layer + 1, None), lines)


@torch.no_grad()
def _check(model: Any, device: str, rounding: float, reference: Any = None) -> None:
    """All modes: something changes, close to the reference where one is given, and no trace afterwards."""
    tokens = torch.randint(3, 96, (4, 17), generator=torch.Generator().manual_seed(1))
    plain = model(tokens.to(device)).logits
    for mode, strength in _WAYS:
        with ablate(model, _mask(model), mode, strength):
            masked = model(tokens.to(device)).logits
        assert not torch.equal(masked, plain), f"{mode} changes nothing"
        if reference is not None:
            with ablate(reference, _mask(reference), mode, strength):
                expected = reference(tokens).logits
            difference = (masked.float().cpu() - expected.float()).abs().max().item()
            assert difference < rounding, f"{mode} differs from the CPU's by {difference:.2e}"
        assert torch.equal(model(tokens.to(device)).logits, plain), f"{mode} leaves a trace"


def _on_device(model_type: str, dtype: torch.dtype) -> None:
    for index in range(torch.cuda.device_count()):
        rounding = 1e-3 if dtype == torch.float32 else 0.1
        _check(_model(model_type, dtype).to(f"cuda:{index}"), f"cuda:{index}", rounding, _model(model_type, dtype))


def _spread(model_type: str, places: list[str | int]) -> None:
    if len(places) < 2:
        raise NotHereError("one GPU only")
    with tempfile.TemporaryDirectory() as folder:
        _model(model_type).save_pretrained(folder)
        last = len(places) - 1
        device_map: dict[str, Any] = {"model.embed_tokens": places[0], "model.norm": places[last]}
        device_map |= {"lm_head": places[last], "model.rotary_emb": places[0]}
        device_map |= {f"model.layers.{i}": places[min(i * len(places) // 4, last)] for i in range(4)}
        model = AutoModelForCausalLM.from_pretrained(folder, device_map=device_map, dtype=torch.float32).eval()
        _check(model, "cuda:0", 1e-3, _model(model_type))


def _quantised(bits: int) -> None:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise NotHereError("bitsandbytes is not installed") from None
    with tempfile.TemporaryDirectory() as folder:
        _model("llama").save_pretrained(folder)
        config = BitsAndBytesConfig(load_in_8bit=bits == 8, load_in_4bit=bits == 4)
        model = AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=config, device_map={"": 0}, dtype=torch.float16
        )
        _check(model.eval(), "cuda:0", 1.0)


@torch.no_grad()
def _compiled() -> None:
    model, tokens = _model("llama").to("cuda"), torch.randint(3, 96, (4, 17), device="cuda")
    expected = {}
    for mode in ("zero", "mean"):
        with ablate(model, _mask(model), mode):
            expected[mode] = model(tokens).logits
    plain = model(tokens).logits
    compiled = torch.compile(model)
    torch.testing.assert_close(compiled(tokens).logits, plain, rtol=1e-3, atol=1e-3)
    for mode, logits in expected.items():
        with ablate(compiled, _mask(model), mode):
            torch.testing.assert_close(compiled(tokens).logits, logits, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(compiled(tokens).logits, plain, rtol=1e-3, atol=1e-3)


def _checks() -> dict[str, Callable[[], None]]:
    gpus: list[str | int] = list(range(torch.cuda.device_count()))
    checks: dict[str, Callable[[], None]] = {}
    for model_type in ("llama", "qwen3_moe"):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            checks[f"{model_type}, {dtype}"] = lambda m=model_type, d=dtype: _on_device(m, d)
        checks[f"{model_type}, over all GPUs"] = lambda m=model_type: _spread(m, gpus)
        checks[f"{model_type}, GPU and offload"] = lambda m=model_type: _spread(m, [0, "cpu"])
    for bits in (8, 4):
        checks[f"llama, {bits} bits"] = lambda b=bits: _quantised(b)
    return checks | {"llama, torch.compile": _compiled}


def main() -> None:
    """Runs every check and prints a line for each; exit code 1 when one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where to write the results as JSON")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this machine has no GPU that torch can use")
    results: dict[str, str] = {}
    for name, check in _checks().items():
        try:
            check()
            results[name] = "ok"
        except NotHereError as error:
            results[name] = f"not here: {error}"
        except Exception as error:
            results[name] = f"FAILED: {type(error).__name__}: {str(error).splitlines()[0]}"
        print(f"{name:32} {results[name]}", flush=True)
    if arguments.out:
        device = torch.cuda.get_device_name(0)
        arguments.out.write_text(json.dumps({"gpu": device, "torch": torch.__version__, "checks": results}, indent=1))
    sys.exit(any(result.startswith("FAILED") for result in results.values()))


if __name__ == "__main__":
    main()
