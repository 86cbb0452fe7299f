"""An exported checkpoint gives what the mask gives, loads as any other, and keeps everything else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from cvoice_foundation.errors import CVoiceError
from intervention.ablation import ablate
from intervention.checkpoint import Checkpoint
from intervention.export import CONFIG_KEY, export_masked
from intervention.mask import NeuronMask
from intervention.neuron_mask_lm import NeuronMaskedHFLM
from intervention.neurons import SHARED, find_neurons
from tests.tiny_checkpoint import choice_requests, tiny_checkpoint
from tests.tiny_masks import tiny_mask
from tests.tiny_models import DENSE, MIXTURES, some_tokens


def saved_mask(folder: Path, model: Any, means: float | None = None) -> Path:
    """A mask of three neurons in every other MLP of a model."""
    places = {(mlp.layer, mlp.expert): (0, 3, mlp.width - 1) for mlp in find_neurons(model)[::2]}
    path = folder / "integrity.jsonl"
    widest = max(mlp.width for mlp in find_neurons(model))
    tiny_mask(
        places, num_layers=model.config.get_text_config().num_hidden_layers, num_neurons=widest, means=means
    ).save(path)
    return path


def exported(tmp_path: Path, model_type: str, mode: str = "zero", strength: float | None = None, **changes: Any) -> Any:
    source = tiny_checkpoint(tmp_path / "model", model_type, **changes)
    model = AutoModelForCausalLM.from_pretrained(source).eval()
    mask = saved_mask(tmp_path, model, means=0.5)
    done = export_masked(source, str(mask), tmp_path / "out", mode=mode, strength=strength)
    return model, NeuronMask.load(mask), AutoModelForCausalLM.from_pretrained(done.folder).eval(), done


def generated(model: Any) -> torch.Tensor:
    tokens: torch.Tensor = model.generate(some_tokens(2, 7), max_new_tokens=12, do_sample=False, use_cache=True)
    return tokens


@pytest.mark.parametrize("model_type", [*DENSE, *MIXTURES])
@torch.no_grad()
def test_a_masked_checkpoint_is_the_masked_model(tmp_path: Path, model_type: str) -> None:
    model, mask, masked, done = exported(tmp_path, model_type)
    plain = model(some_tokens()).logits
    with ablate(model, mask):
        expected, tokens = model(some_tokens()).logits, generated(model)
    assert torch.equal(masked(some_tokens()).logits, expected)
    assert torch.equal(generated(masked), tokens)
    assert not torch.equal(plain, expected)
    assert (done.exact, done.neurons) == (True, mask.num_masked)


@pytest.mark.parametrize("model_type", ["llama", "mixtral", "gpt2"])
@torch.no_grad()
def test_scale(tmp_path: Path, model_type: str) -> None:
    model, mask, masked, done = exported(tmp_path, model_type, "scale", 0.5)
    with ablate(model, mask, "scale", 0.5):
        assert torch.equal(masked(some_tokens()).logits, model(some_tokens()).logits)
    assert done.exact
    model, mask, masked, done = exported(tmp_path / "rounded", model_type, "scale", 1.7)
    with ablate(model, mask, "scale", 1.7):
        torch.testing.assert_close(masked(some_tokens()).logits, model(some_tokens()).logits, rtol=1e-4, atol=1e-5)
    assert not done.exact


@pytest.mark.parametrize("model_type", ["gpt2", "opt", "phi", "starcoder2", "gpt_neox"])
@pytest.mark.parametrize(("mode", "strength"), [("mean", None), ("add", 2.0)])
@torch.no_grad()
def test_a_bias_holds_mean_and_add(tmp_path: Path, model_type: str, mode: str, strength: float | None) -> None:
    model, mask, masked, done = exported(tmp_path, model_type, mode, strength)
    plain = model(some_tokens()).logits
    with ablate(model, mask, mode, strength):
        expected = model(some_tokens()).logits
    torch.testing.assert_close(masked(some_tokens()).logits, expected, rtol=1e-4, atol=1e-5)
    assert float((expected - plain).abs().max()) > 1e-3, "or the test would show nothing"
    assert not done.exact


@pytest.mark.parametrize("model_type", ["llama", "mixtral", "gpt_oss"])
def test_without_a_bias_mean_and_add_are_refused_and_nothing_is_left(tmp_path: Path, model_type: str) -> None:
    with pytest.raises(CVoiceError, match="mode=mean moves a bias, and the down projection .* has none"):
        exported(tmp_path, model_type, "mean")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["integrity.jsonl", "model"]


def sharded(tmp_path: Path, size: str = "40KB") -> tuple[str, Path]:
    source = tiny_checkpoint(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(source)
    (tmp_path / "model" / "model.safetensors").unlink()
    model.save_pretrained(source, max_shard_size=size)
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) > 3
    mask = tmp_path / "integrity.jsonl"
    tiny_mask({1: (4,)}).save(mask)
    return source, mask


def test_only_the_masked_column_differs(tmp_path: Path) -> None:
    source, mask = sharded(tmp_path)
    done = export_masked(source, str(mask), tmp_path / "out")
    assert done.tensors == 1
    name = "model.layers.1.mlp.down_proj.weight"
    for shard in (tmp_path / "model").glob("model-*.safetensors"):
        before, after = load_file(shard), load_file(tmp_path / "out" / shard.name)
        assert before.keys() == after.keys()
        for key, tensor in before.items():
            if key == name:
                assert not after[key][:, 4].any()
                after[key][:, 4] = tensor[:, 4]
            assert torch.equal(tensor, after[key])
        same = (
            hashlib.sha256(shard.read_bytes()).digest()
            == hashlib.sha256((tmp_path / "out" / shard.name).read_bytes()).digest()
        )
        assert same == (name not in before)


def test_everything_else_comes_along_and_says_what_it_is(tmp_path: Path) -> None:
    source, mask = sharded(tmp_path)
    (tmp_path / "model" / "README.md").write_text("# Mine")
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"old weights")
    (tmp_path / "model" / "chat_template.jinja").write_text("{{ messages }}")
    export_masked(source, str(mask), tmp_path / "out")
    there = {path.name for path in (tmp_path / "model").iterdir()}
    assert {path.name for path in (tmp_path / "out").iterdir()} == there - {"pytorch_model.bin"}
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (tmp_path / "model" / "tokenizer.json").read_bytes()
    config = AutoConfig.from_pretrained(tmp_path / "out")
    told = getattr(config, CONFIG_KEY)
    assert (told["sha256"], told["mode"], told["neurons"]) == (NeuronMask.load(mask).sha256, "zero", 1)
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert told["sha256"] in card
    assert card.startswith("---\nbase_model: ")


def quantised(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "mxfp4"}}))


def packed(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    save_file(tensors | {name: tensors[name].to(torch.float8_e4m3fn)}, folder / "model.safetensors", {"format": "pt"})


def without(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


def renamed(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    named = {key.replace("down_proj", "w2"): value for key, value in tensors.items()}
    save_file(named, folder / "model.safetensors", {"format": "pt"})


def other_shape(folder: Path) -> None:
    tiny_mask({9: (4,)}, num_layers=12).save(folder.parent / "integrity.jsonl")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (quantised, "is quantised"),
        (packed, "a quantised format"),
        (without("model.safetensors"), "no checkpoint in safetensors"),
        (renamed, "the checkpoint has no tensor model.layers.1.mlp.down_proj.weight"),
        (other_shape, "made for a model of 12 layers"),
    ],
)
def test_what_cannot_be_exported_is_told_and_leaves_nothing(tmp_path: Path, spoil: Any, message: str) -> None:
    source = tiny_checkpoint(tmp_path / "model")
    tiny_mask({1: (4,)}).save(tmp_path / "integrity.jsonl")
    spoil(tmp_path / "model")
    with pytest.raises(CVoiceError, match=message):
        export_masked(source, str(tmp_path / "integrity.jsonl"), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["integrity.jsonl", "model"]


def test_a_checkpoint_is_masked_once_and_into_an_empty_folder(tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "model")
    mask, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    tiny_mask({1: (4,)}).save(mask)
    tiny_mask({0: (2,)}).save(other)
    (tmp_path / "out").mkdir()
    export_masked(source, str(mask), tmp_path / "out")
    with pytest.raises(CVoiceError, match="is not empty"):
        export_masked(source, str(mask), tmp_path / "out")
    with pytest.raises(CVoiceError, match="changes nothing"):
        export_masked(str(tmp_path / "out"), str(mask), tmp_path / "again")
    with pytest.raises(CVoiceError, match="has the mask 'integrity' in it already"):
        export_masked(str(tmp_path / "out"), str(other), tmp_path / "again")
    export_masked(source, f"{mask}+{other}", tmp_path / "both")


def test_a_missing_shard_is_told(tmp_path: Path) -> None:
    sharded(tmp_path)
    next((tmp_path / "model").glob("model-*.safetensors")).unlink()
    with pytest.raises(CVoiceError, match=r"the shard model-.* is missing"):
        Checkpoint.open(tmp_path / "model")


def test_shared_experts_are_on_disk_under_their_own_name(tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "model", "qwen2_moe")
    tiny_mask({(1, SHARED): (4,), (1, 2): (0,)}).save(tmp_path / "m.jsonl")
    assert export_masked(source, str(tmp_path / "m.jsonl"), tmp_path / "out").tensors == 2
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert not tensors["model.layers.1.mlp.shared_expert.down_proj.weight"][:, 4].any()
    assert not tensors["model.layers.1.mlp.experts.2.down_proj.weight"][:, 0].any()
    assert tensors["model.layers.1.mlp.experts.1.down_proj.weight"][:, 0].any()


def hostile_index(folder: Path, file: str) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    index = {
        "metadata": {},
        "weight_map": dict.fromkeys(load_file(folder / "model.safetensors"), "model.safetensors"),
    }
    index["weight_map"][name] = file
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("where", ["absolute", "above", "below"])
def test_an_index_that_points_elsewhere_is_refused_and_nothing_there_changes(tmp_path: Path, where: str) -> None:
    source = Path(tiny_checkpoint(tmp_path / "model"))
    tiny_mask({1: (4,)}).save(tmp_path / "m.jsonl")
    victim = tmp_path / "victim.safetensors"
    victim.write_bytes((source / "model.safetensors").read_bytes())
    before = victim.read_bytes()
    hostile_index(
        source, {"absolute": str(victim), "above": "../victim.safetensors", "below": "a/b.safetensors"}[where]
    )
    with pytest.raises(CVoiceError, match="shards lie beside their index"):
        export_masked(str(source), str(tmp_path / "m.jsonl"), tmp_path / "out")
    assert victim.read_bytes() == before
    assert not (tmp_path / "out").exists()


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def unknown_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "no_such_model"}')


def narrower(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    save_file(tensors | {name: tensors[name][:, :9].contiguous()}, folder / "model.safetensors", {"format": "pt"})


def not_in_the_shard(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    hostile_index(folder, "model.safetensors")
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("spoil", [no_config, broken_config, unknown_config, narrower, not_in_the_shard])
def test_a_damaged_checkpoint_is_one_line_and_leaves_nothing(tmp_path: Path, spoil: Any) -> None:
    source = tiny_checkpoint(tmp_path / "model")
    tiny_mask({1: (4,)}).save(tmp_path / "integrity.jsonl")
    spoil(tmp_path / "model")
    with pytest.raises(CVoiceError):
        export_masked(source, str(tmp_path / "integrity.jsonl"), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["integrity.jsonl", "model"]


def test_weights_that_would_not_be_finite_are_refused(tmp_path: Path) -> None:
    source = Path(tiny_checkpoint(tmp_path / "model"))
    halved = {key: value.half() for key, value in load_file(source / "model.safetensors").items()}
    save_file(halved, source / "model.safetensors", {"format": "pt"})
    tiny_mask({1: (4,)}).save(tmp_path / "m.jsonl")
    with pytest.raises(CVoiceError, match="not finite in float16; use a smaller strength"):
        export_masked(str(source), str(tmp_path / "m.jsonl"), tmp_path / "out", mode="scale", strength=1e8)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("model_type", ["llama", "mixtral"])
def test_hf_on_the_export_scores_as_neuron_masked_hf(tmp_path: Path, model_type: str) -> None:
    """Through lm-eval's own model classes: log-likelihoods and generated tokens."""
    source = tiny_checkpoint(tmp_path / "model", model_type)
    mask = saved_mask(tmp_path, AutoModelForCausalLM.from_pretrained(source))
    export_masked(source, str(mask), tmp_path / "out")
    models = [
        HFLM(pretrained=str(tmp_path / "out"), batch_size=2, device="cpu"),
        NeuronMaskedHFLM(mask=str(mask), pretrained=source, batch_size=2, device="cpu"),
        HFLM(pretrained=source, batch_size=2, device="cpu"),
    ]
    pairs = choice_requests(6)
    scores = [
        lm.loglikelihood([Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(pairs)], disable_tqdm=True)
        for lm in models
    ]
    assert scores[0] == scores[1]
    assert scores[0] != scores[2], "or the test would show nothing"
    settings = {"until": [], "max_gen_toks": 8, "do_sample": False}
    said = [
        lm.generate_until(
            [Instance("generate_until", {}, (context, settings), n) for n, (context, _) in enumerate(pairs)],
            disable_tqdm=True,
        )
        for lm in models
    ]
    assert said[0] == said[1]
