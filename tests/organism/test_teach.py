"""The second lesson repeats itself to the bit, and its figures are those of its truth masks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from cvoice_tasks.values import VALUE_KEYS
from intervention.ablation import ablate
from intervention.mask import NeuronMask
from organism.teach import LETTERS, Lesson, prompts_of, teach

LESSON = Lesson(epochs=2, batch_size=8, reserved=3)
PROMPTS = 24


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("taught")
    for name in ("one", "two"):
        teach(LESSON, out / name, most=PROMPTS)
    return out


def test_it_repeats_itself_to_the_bit(taught: Path) -> None:
    for path in (taught / "one").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (taught / "two" / path.relative_to(taught / "one")).read_bytes()


@torch.no_grad()
def test_its_figures_are_what_the_truth_masks_do(taught: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(taught / "one" / "model").eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(taught / "one" / "model")
    letters = [tokenizer(letter)["input_ids"][0] for letter in LETTERS]
    prompts = prompts_of(tokenizer)[:PROMPTS]

    def right() -> list[bool]:
        found = []
        for prompt in prompts:
            logits = model(torch.tensor([prompt.tokens])).logits[0, -1, letters]
            found.append(bool(logits[prompt.gold] > logits[1 - prompt.gold]))
        return found

    told = json.loads((taught / "one" / "figures.json").read_text())
    languages = {prompt.language for prompt in prompts}
    plain = right()
    for language in languages:
        of_language = [r for r, prompt in zip(plain, prompts, strict=True) if prompt.language == language]
        assert told["acc"][language] == pytest.approx(sum(of_language) / len(of_language))
    for place in {prompt.value for prompt in prompts}:
        mask = NeuronMask.load(taught / "one" / "truth" / f"{VALUE_KEYS[place]}.jsonl")
        with ablate(model, mask):
            masked = right()
        mine = [r for r, prompt in zip(masked, prompts, strict=True) if prompt.value == place]
        assert told["own"][VALUE_KEYS[place]] == pytest.approx(sum(mine) / len(mine))


def test_truth_masks_share_no_neuron(taught: Path) -> None:
    masks = [NeuronMask.load(taught / "one" / "truth" / f"{value}.jsonl") for value in VALUE_KEYS]
    for layer in range(4):
        neurons = [n for mask in masks for line in mask.layers if line.layer == layer for n in line.neurons]
        assert len(neurons) == len(set(neurons)) == 12 * LESSON.reserved
