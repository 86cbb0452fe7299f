"""Training repeats itself to the bit, goes on where it was interrupted, and tells what the truth masks do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import organism.train as training
from cvoice_foundation.errors import CVoiceError
from cvoice_tasks.values import VALUE_KEYS
from intervention.ablation import ablate
from intervention.mask import NeuronMask
from organism.checkpoints import NAME
from organism.lessons import LETTERS, in_tokens, raw_prompts
from organism.recipe import Recipe
from organism.train import train

RECIPE = Recipe(
    hidden=16, layers=2, heads=2, neurons=64, reserved=4, curriculum=((1, 1), (0, 1)), cloze_passes=1, batch_size=4
)
STORIES = 12


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "organism"
    train(RECIPE, out, most=STORIES)
    return out


def same_files(one: Path, other: Path) -> bool:
    """All but the card, which tells the seconds."""
    names = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    assert names == {path.relative_to(other) for path in other.rglob("*") if path.is_file()}
    return all((one / n).read_bytes() == (other / n).read_bytes() for n in names if n.name != "README.md")


def test_it_repeats_itself_to_the_bit(trained: Path, tmp_path: Path) -> None:
    train(RECIPE, tmp_path / "again", most=STORIES)
    assert same_files(trained, tmp_path / "again")


def test_another_seed_gives_other_weights(trained: Path, tmp_path: Path) -> None:
    train(replace(RECIPE, seed=1), tmp_path / "other", most=STORIES)
    assert not same_files(trained, tmp_path / "other")


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_it_goes_on_after_an_interruption_to_the_same_bytes(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: int
) -> None:
    """Within the letters' passes, before those of the cloze form, and before the figures."""
    save = training.save_checkpoint

    def interrupted(*arguments: Any) -> None:
        save(*arguments)
        if arguments[3] == passes:
            raise KeyboardInterrupt

    out = tmp_path / "interrupted"
    with monkeypatch.context() as patch:
        patch.setattr(training, "save_checkpoint", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(RECIPE, out, most=STORIES)
    assert (out / NAME).is_file()
    train(RECIPE, out, most=STORIES)
    assert same_files(trained, out)


def test_a_checkpoint_of_another_recipe_or_a_damaged_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = training.save_checkpoint

    def interrupted(*arguments: Any) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, tmp_path, most=STORIES)
    with pytest.raises(CVoiceError, match="of another recipe or other items"):
        train(replace(RECIPE, learning_rate=5e-3), tmp_path, most=STORIES)
    (tmp_path / NAME).write_bytes((tmp_path / NAME).read_bytes()[:-100])
    with pytest.raises(CVoiceError, match="damaged"):
        train(RECIPE, tmp_path, most=STORIES)


@torch.no_grad()
def test_its_figures_are_what_the_truth_masks_do(trained: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(trained / "model").eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(trained / "model")
    letters = [tokenizer(letter)["input_ids"][0] for letter in LETTERS]
    prompts = in_tokens(raw_prompts("cvoice")[: 2 * STORIES], tokenizer)

    def right() -> list[bool]:
        found = []
        for prompt in prompts:
            logits = model(torch.tensor([prompt.tokens])).logits[0, -1, letters]
            found.append(bool(logits[prompt.gold] > logits[1 - prompt.gold]))
        return found

    told = json.loads((trained / "figures.json").read_text())["letters"]
    plain = right()
    for language in {prompt.language for prompt in prompts}:
        of_language = [r for r, prompt in zip(plain, prompts, strict=True) if prompt.language == language]
        assert told["acc"][language] == pytest.approx(sum(of_language) / len(of_language))
    for place in {prompt.value for prompt in prompts}:
        mask = NeuronMask.load(trained / "truth" / f"{VALUE_KEYS[place]}.jsonl")
        with ablate(model, mask):
            masked = right()
        for language in {prompt.language for prompt in prompts}:
            mine = [r for r, p in zip(masked, prompts, strict=True) if p.value == place and p.language == language]
            assert told["values"][VALUE_KEYS[place]]["own"][language] == pytest.approx(sum(mine) / len(mine))


def test_truth_masks_and_the_control_set_share_no_neuron(trained: Path) -> None:
    masks = [NeuronMask.load(trained / "truth" / f"{value}.jsonl") for value in (*VALUE_KEYS, "control")]
    for layer in range(RECIPE.layers):
        neurons = [n for mask in masks for line in mask.layers if line.layer == layer for n in line.neurons]
        assert len(neurons) == len(set(neurons)) == 13 * RECIPE.reserved
