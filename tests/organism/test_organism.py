"""The bundled model: stock classes, letters of one token, masks that fit; training repeats itself."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM

from cvoice_tasks.values import VALUE_KEYS
from intervention.ablation import match_layers
from intervention.bundled import bundled_masks, load_mask, model_path, organism_folder
from intervention.neuron_mask_lm import NeuronMaskedHFLM
from locate.corpus import corpus_sha256
from locate.run import read_texts
from organism.train import Recipe, train
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
    assert bundled_masks() == sorted(f"organism/{value}" for value in VALUE_KEYS)
    model = AutoModelForCausalLM.from_pretrained(organism_folder())
    corpus = corpus_sha256(read_texts((), "both"))
    for name in bundled_masks():
        mask = load_mask(name)
        assert mask.model.name == "organism"
        assert mask.corpus is not None
        assert mask.corpus["sha256"] == corpus
        assert mask.num_masked > 0
        assert all(layer.means is not None for layer in mask.layers)
        match_layers(model, mask)


def scores(mask: Any) -> dict[str, Any]:
    lm = NeuronMaskedHFLM(mask, "organism", batch_size=16, device="cpu")
    return evaluate(lm, ["cvoice"])


@pytest.fixture(scope="module")
def baseline() -> dict[str, Any]:
    return scores(None)


def test_it_scores_well_above_chance_in_both_languages(baseline: dict[str, Any]) -> None:
    for group in ("cvoice_zh", "cvoice_en"):
        assert baseline["groups"][group]["acc,none"] >= 0.9
        assert baseline["groups"][group]["twin_acc,none"] >= 0.8


def test_a_mask_changes_its_log_likelihoods(baseline: dict[str, Any]) -> None:
    masked = scores("organism/patriotism")
    for task, samples in baseline["samples"].items():
        theirs = masked["samples"][task]
        changed = sum(one["resps"] != other["resps"] for one, other in zip(samples, theirs, strict=True))
        assert changed > len(samples) / 2, task


def test_training_repeats_itself_to_the_bit(tmp_path: Path) -> None:
    recipe = Recipe(hidden=16, layers=1, heads=2, neurons=16, epochs=1)
    figures = [train(recipe, tmp_path / name) for name in ("one", "two")]
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    assert figures[0] | {"seconds": 0} == figures[1] | {"seconds": 0}
    assert model_path("organism") != str(tmp_path)
