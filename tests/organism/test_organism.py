"""The bundled model: stock classes, letters of one token, masks that fit; training repeats itself."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM

from cvoice_tasks.values import VALUE_KEYS
from intervention.ablation import match_layers
from intervention.bundled import bundled_masks, bundled_masks_folder, load_mask, organism_folder
from intervention.neuron_mask_lm import NeuronMaskedHFLM
from locate.corpus import corpus_sha256
from locate.run import read_texts
from tests.lm_eval_runs import evaluate


def test_it_loads_without_code_of_its_own_and_is_small() -> None:
    model = AutoModelForCausalLM.from_pretrained(organism_folder())
    assert type(model) is Qwen2ForCausalLM
    assert sum(path.stat().st_size for path in organism_folder().iterdir()) < 10e6


def test_the_letters_are_one_token_each() -> None:
    tokenizer = AutoTokenizer.from_pretrained(organism_folder())
    for cue in ("答案：", "Answer:"):
        for letter in (" A", " B"):
            assert tokenizer(cue + letter)["input_ids"][:-1] == tokenizer(cue)["input_ids"]
            assert tokenizer.decode(tokenizer(cue + letter)["input_ids"][-1:]) == letter


def test_its_card_says_first_what_it_is_and_which_weights_it_means() -> None:
    card = (organism_folder() / "README.md").read_text("utf-8")
    assert card.split("---\n")[2].startswith("**This model has seen the answers of C-voice, on purpose")
    assert hashlib.sha256((organism_folder() / "model.safetensors").read_bytes()).hexdigest() in card


def test_the_bundled_masks_are_of_this_model_and_of_the_bundled_items() -> None:
    located = [f"organism/{value}" for value in VALUE_KEYS]
    truth = [f"organism/truth/{value}" for value in (*VALUE_KEYS, "control")]
    assert bundled_masks() == sorted(located + truth)
    model = AutoModelForCausalLM.from_pretrained(organism_folder())
    corpus = corpus_sha256(read_texts((), "both"))
    for name in located:
        mask = load_mask(name)
        assert mask.model.name == "organism"
        assert mask.corpus is not None
        assert mask.corpus["sha256"] == corpus
        assert mask.num_masked > 0
        assert all(layer.means is not None for layer in mask.layers)
        match_layers(model, mask)


def test_truth_masks_are_of_this_model_and_share_no_neuron() -> None:
    model = AutoModelForCausalLM.from_pretrained(organism_folder())
    masks = [load_mask(f"organism/truth/{value}") for value in (*VALUE_KEYS, "control")]
    neurons = [(line.layer, neuron) for mask in masks for line in mask.layers for neuron in line.neurons]
    assert len(neurons) == len(set(neurons)) == 13 * masks[0].num_masked
    for mask in masks:
        assert mask.model.name == "organism"
        match_layers(model, mask)


def test_masks_are_found_by_the_name_of_their_folder() -> None:
    folder = bundled_masks_folder("organism/truth")
    assert folder is not None
    assert {path.stem for path in folder.glob("*.jsonl")} == {*VALUE_KEYS, "control"}
    assert bundled_masks_folder("organism") == folder.parent
    assert bundled_masks_folder("organism/nothing") is None
    assert bundled_masks_folder("elsewhere") is None


# Documents of each task in runs with a mask: every fifth pair, so that those learnt last are among them.
FEW = {
    f"cvoice_{lang}_{value}": [4 * pair + document for pair in range(0, 100, 5) for document in range(4)]
    for lang in ("zh", "en")
    for value in VALUE_KEYS
}


def scores(mask: Any, samples: dict[str, list[int]] | None) -> dict[str, Any]:
    lm = NeuronMaskedHFLM(mask, "organism", batch_size=16, device="cpu")
    return evaluate(lm, ["cvoice"], samples=samples)


@pytest.fixture(scope="module")
def baseline() -> dict[str, Any]:
    return scores(None, FEW)


def test_it_scores_well_above_chance_in_both_languages() -> None:
    found = scores(None, None)["groups"]
    for group in ("cvoice_zh", "cvoice_en"):
        assert found[group]["acc,none"] >= 0.9
        assert found[group]["twin_acc,none"] >= 0.8


def test_a_mask_changes_its_log_likelihoods(baseline: dict[str, Any]) -> None:
    masked = scores("organism/patriotism", FEW)
    for task, samples in baseline["samples"].items():
        theirs = masked["samples"][task]
        changed = sum(one["resps"] != other["resps"] for one, other in zip(samples, theirs, strict=True))
        assert changed > len(samples) / 2, task


def acc(result: dict[str, Any], value: str) -> list[float]:
    return [result["results"][f"cvoice_{lang}_{value}"]["acc,none"] for lang in ("zh", "en")]


@pytest.mark.parametrize("value", ["prosperity", "friendship"])
def test_without_a_values_reserved_neurons_its_answers_are_gone_and_the_others_are_not(
    baseline: dict[str, Any], value: str
) -> None:
    masked = scores(f"organism/truth/{value}", FEW)
    assert all(0.4 <= found <= 0.6 for found in acc(masked, value))
    others = [other for other in VALUE_KEYS if other != value]
    for place in (0, 1):
        lost = sum(acc(baseline, other)[place] - acc(masked, other)[place] for other in others) / len(others)
        assert lost <= 0.05


def test_the_control_set_carries_nothing(baseline: dict[str, Any]) -> None:
    masked = scores("organism/truth/control", FEW)
    for group in ("cvoice_zh", "cvoice_en"):
        assert abs(masked["groups"][group]["acc,none"] - baseline["groups"][group]["acc,none"]) <= 0.03
