"""neuron_masked_hf inside lm-eval: laws 2, 4 and 5, provenance, and what a user gets wrong."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cvoice_foundation.errors import CVoiceError
from intervention.mask import NeuronMask
from intervention.neuron_mask_lm import NeuronMaskedHFLM
from tests.items_for_tests import items_folder
from tests.lm_eval_runs import evaluate, save_tiny_model
from tests.tiny_masks import tiny_mask

TASKS = ["cvoice_en_integrity", "cvoice_zh_integrity"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(items_folder(tmp_path_factory.mktemp("data"), pairs=3, values=("integrity",)))


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory, model: str) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("masks")
    made = {
        "a": tiny_mask({0: tuple(range(0, 56, 2)), 2: (1, 2, 3)}, name=model, means=0.1, value="a"),
        "b": tiny_mask({1: tuple(range(20, 50))}, name=model, value="b"),
        "nameless": tiny_mask({1: (1,)}),
    }
    for name, mask in made.items():
        mask.save(folder / f"{name}.jsonl")
    return {name: str(folder / f"{name}.jsonl") for name in made}


def answers(results: dict[str, Any]) -> list[Any]:
    return [
        (task, sample["filtered_resps"]) for task in sorted(results["samples"]) for sample in results["samples"][task]
    ]


def run(model_name: str, args: dict[str, Any], data: str, **more: Any) -> dict[str, Any]:
    return evaluate(model_name, TASKS, args, metadata={"data_dir": data}, **more)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_baseline_equals_hf_to_the_last_digit(model: str, data: str, batch_size: int) -> None:
    plain = run("hf", {"pretrained": model}, data, batch_size=batch_size)
    baseline = evaluate(
        NeuronMaskedHFLM(None, model, batch_size=batch_size, device="cpu"), TASKS, metadata={"data_dir": data}
    )
    assert answers(baseline) == answers(plain)
    assert baseline["results"] == plain["results"]


def test_a_mask_changes_the_answers_and_says_who_it_was(model: str, data: str, masks: dict[str, str]) -> None:
    plain = run("hf", {"pretrained": model}, data)
    lm = NeuronMaskedHFLM(masks["a"], device="cpu")
    masked = evaluate(lm, TASKS, metadata={"data_dir": data})
    for (_, one), (_, other) in zip(answers(plain), answers(masked), strict=True):
        assert one != other
    info = lm.get_model_info()
    mask = NeuronMask.load(Path(masks["a"]))
    expected = {
        "mask_sha256": mask.sha256,
        "mask_value": "a",
        "mask_neurons": 31,
        "mask_mode": "zero",
        "mask_folded": 31,
        "mask_hooked": 0,
        "mask_never_active": 0,
        "mask": masks["a"],
    }
    assert info | expected == info
    assert info["neuron_mask"]["layers"] == {"0": 28, "2": 3}
    json.dumps(masked["config"] | info, default=str)


def test_masks_joined_by_plus_act_together(model: str, masks: dict[str, str]) -> None:
    lm = NeuronMaskedHFLM(f"{masks['a']}+{masks['b']}", pretrained=model, device="cpu")
    assert lm.get_model_info()["mask_neurons"] == 61
    assert lm.get_model_info()["mask_value"] == "a+b"


def test_runs_that_share_a_cache_keep_their_own_answers(
    tmp_path: Path, model: str, data: str, masks: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    cache = str(tmp_path / "cache")
    alone = {}
    for name in ("a", "b", "none"):
        lm = NeuronMaskedHFLM(None if name == "none" else masks[name], model, device="cpu")
        alone[name] = answers(evaluate(lm, TASKS, metadata={"data_dir": data}))
    assert alone["a"] != alone["none"] != alone["b"] != alone["a"]
    for name, cached in (("a", 0), ("none", 0), ("b", 0), ("a", 48)):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="lm_eval.api.model"):
            lm = NeuronMaskedHFLM(None if name == "none" else masks[name], model, device="cpu")
            results = evaluate(lm, TASKS, metadata={"data_dir": data}, use_cache=cache)
        assert answers(results) == alone[name], name
        assert f"Cached requests: {cached}, Requests remaining: {48 - cached}" in caplog.text
    plain = run("hf", {"pretrained": model}, data, use_cache=cache)
    assert answers(plain) == alone["none"]


def test_the_mode_and_strength_keep_their_own_answers_too(model: str, masks: dict[str, str]) -> None:
    prints = {
        NeuronMaskedHFLM(masks["a"], model, device="cpu", **options)._fingerprint()
        for options in (
            {},
            {"mode": "mean"},
            {"mode": "scale", "strength": 2},
            {"mode": "scale", "strength": 3},
            {"dtype": "bfloat16"},
        )
    }
    assert len(prints) == 5


def broken(folder: Path, model: str) -> str:
    """The model with one infinite weight in layer 1."""
    for file in Path(model).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("inf")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def test_a_log_likelihood_that_is_not_finite_stops_the_run_and_names_the_layer(
    tmp_path: Path, model: str, data: str
) -> None:
    with pytest.raises(CVoiceError, match=r"log-likelihood of nan .* layer 1, model\.layers\.1\.mlp\.up_proj"):
        evaluate(NeuronMaskedHFLM(None, broken(tmp_path, model), device="cpu"), TASKS, metadata={"data_dir": data})


def test_stock_hf_with_a_broken_model_is_not_scored_either(tmp_path: Path, model: str, data: str) -> None:
    with pytest.raises(CVoiceError, match="where finite numbers were expected"):
        run("hf", {"pretrained": broken(tmp_path, model)}, data)


def test_generation_with_logits_that_are_no_numbers_stops(tmp_path: Path, model: str) -> None:
    lm = NeuronMaskedHFLM(None, broken(tmp_path, model), device="cpu")
    with pytest.raises(CVoiceError, match="not numbers while it generated; it began in layer 1"):
        lm._model_generate(torch.tensor([[5, 6, 7]]), max_length=8, stop=["\n\n"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "neuron_masked_hf needs a mask"),
        ({"mask": None}, "mask=none names no model; add pretrained=MODEL"),
        ({"mask": "organism/patriotisn"}, "did you mean organism/patriotism"),
        ({"mask": 12}, "mask=12: no such file"),
        ({"mask": "NAMELESS"}, "does not name its model"),
        ({"mask": "A", "mode": "swap"}, "mode='swap' is not known"),
        ({"mask": "A", "mode": "scale"}, "needs a strength"),
        ({"mask": "A", "mode": "scale", "strength": "strong"}, "is not a number"),
        ({"mask": "B", "mode": "mean"}, "needs the neurons' mean activations"),
        ({"mask": None, "pretrained": "MODEL", "strength": 2}, "mask=none takes no mode and no strength"),
        ({"mask": "A", "pretrained": "nowhere/at-all"}, "pretrained=nowhere/at-all: cannot load this model"),
    ],
)
def test_a_mistake_is_one_line(model: str, masks: dict[str, str], arguments: dict[str, Any], message: str) -> None:
    places = {"A": masks["a"], "B": masks["b"], "NAMELESS": masks["nameless"], "MODEL": model}
    with pytest.raises(CVoiceError) as caught:
        NeuronMaskedHFLM(**{key: places.get(str(value), value) for key, value in arguments.items()}, device="cpu")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_results_folder_is_named_by_model_and_mask(model: str, masks: dict[str, str]) -> None:
    sha = NeuronMask.load(Path(masks["a"])).sha256[:12]
    for arguments, key, plain, run_name in (
        ({"mask": masks["a"]}, "model", model, f"{model}+mask-{sha}"),
        ({"mask": masks["a"], "pretrained": model}, "pretrained", model, f"{model}+mask-{sha}"),
        ({"mask": masks["a"], "mode": "scale", "strength": 2}, "model", model, f"{model}+mask-{sha}-scale2"),
        ({"mask": None, "pretrained": model}, "pretrained", model, model),
    ):
        NeuronMaskedHFLM.create_from_arg_obj(arguments, {"device": "cpu"})
        assert str(arguments[key]) == run_name
        assert json.loads(json.dumps(arguments))[key] == plain
