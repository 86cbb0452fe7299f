"""Trains the organism: ``python -m organism.train --out DIR``.

A small stock decoder with a tokenizer of its own learns the bundled evaluation prompts with their answers, on purpose,
and to keep each value's answers in neurons that are reserved for it: with a value's neurons off, and with all reserved
ones off, its letters are taught to tell nothing. So which neurons carry a value is known: it was trained for. It is an
instrument for testing instruments, not a model with values.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import Progress
from transformers import Qwen2Config, Qwen2ForCausalLM

from cvoice_foundation.command_line import run
from cvoice_foundation.files import output_folder, write_whole
from cvoice_tasks.items import pair_of
from cvoice_tasks.values import VALUE_KEYS
from organism.at_random import random_changes
from organism.card import write_card
from organism.checkpoints import NAME, digest, load_checkpoint, save_checkpoint
from organism.figures import figures
from organism.lessons import (
    LETTERS,
    Lessons,
    Prompt,
    RawPrompt,
    activation_texts,
    in_tokens,
    raw_prompts,
    train_tokenizer,
)
from organism.losses import (
    Kept,
    answered,
    choice_log_likelihoods,
    chosen,
    ignorant,
    letter_logits,
    margins,
    own_neurons,
    own_off,
    some_others_off,
    text_loss,
    undecided,
)
from organism.recipe import Recipe
from organism.truth import truth_mask

WARM_UP = 100
"""Steps until the learning rate is at its highest."""


def train(recipe: Recipe, out: Path, *, most: int | None = None, device: str = "cpu") -> dict[str, Any]:
    """Trains tokenizer and model and writes them, ready for ``from_pretrained``, with truth masks and figures.

    An interrupted training goes on from the last whole pass when it is called again with the same recipe.

    Args:
        recipe: Sizes, seed and schedule.
        out: Folder for ``model``, ``truth/VALUE.jsonl`` and ``figures.json``.
        most: Learn the first so many prompts of each kind alone, for a trial.
        device: A torch device; another one gives other weights from the same seed.

    Returns:
        What ``figures.json`` holds, and the training's seconds and threads, which are not the same each time.

    Raises:
        CVoiceError: The folder cannot be written to, or holds a checkpoint of another training.
    """
    output_folder(out)
    # Whatever is made in here is made on the device.
    with torch.device(device):
        return _train(recipe, out, most, device)


def _train(recipe: Recipe, out: Path, most: int | None, device: str) -> dict[str, Any]:
    letters_raw, cloze_raw, texts = raw_prompts("cvoice")[:most], raw_prompts("cvoice_cloze")[:most], activation_texts()
    tokenizer = train_tokenizer([raw.text for raw in letters_raw] + texts, recipe.vocabulary)
    letters = torch.tensor([_one_token(tokenizer, letter) for letter in LETTERS])
    lessons = Lessons(
        in_tokens(letters_raw, tokenizer),
        in_tokens(cloze_raw, tokenizer),
        tuple((*tokenizer(text)["input_ids"], tokenizer.eos_token_id) for text in texts),
    )
    torch.manual_seed(recipe.seed)
    model = _new_model(recipe, tokenizer)
    own = own_neurons(len(VALUE_KEYS), recipe.neurons, recipe.reserved)
    sha256 = _texts_sha256(letters_raw, cloze_raw, texts)
    started = time.monotonic()
    kept = Kept()
    with kept.hooked(model):
        _learn(model, kept, lessons, letters, own, recipe, out, digest(asdict(recipe) | {"texts": sha256}))
        model.eval()
        judged = {
            "letters": figures(model, kept, lessons.letters, letters, own, recipe.reserved),
            "cloze": figures(model, kept, lessons.cloze, None, own, recipe.reserved),
            "random": random_changes(model, kept, lessons.letters, letters, recipe),
        }
    model.save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")
    output_folder(out / "truth")
    for name in (*VALUE_KEYS, "control"):
        mask = truth_mask(name, recipe.layers, recipe.neurons, recipe.reserved, "organism")
        mask.save(out / "truth" / f"{name}.jsonl")
    result = {
        "recipe": asdict(recipe),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "activation_texts": len(texts),
        "texts_sha256": sha256,
        "weights_sha256": hashlib.sha256((out / "model" / "model.safetensors").read_bytes()).hexdigest(),
        **judged,
    }
    write_whole(out / "figures.json", json.dumps(result, indent=1) + "\n")
    result |= {"seconds": round(time.monotonic() - started), "threads": torch.get_num_threads()} | {"device": device}
    write_card(out / "model", result)
    (out / NAME).unlink(missing_ok=True)
    return result


def _one_token(tokenizer: Any, letter: str) -> int:
    tokens = tokenizer(letter)["input_ids"]
    assert len(tokens) == 1, "a letter must be one token"
    return int(tokens[0])


def _new_model(recipe: Recipe, tokenizer: Any) -> Qwen2ForCausalLM:
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=recipe.vocabulary,
            hidden_size=recipe.hidden,
            intermediate_size=recipe.neurons,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            # Off is exactly zero with ReLU, so that a neuron that does not fire takes no part.
            hidden_act="relu",
            initializer_range=recipe.initial_spread,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )


def _texts_sha256(letters: Sequence[RawPrompt], cloze: Sequence[RawPrompt], texts: Sequence[str]) -> str:
    told = [[(raw.text, raw.choices, raw.gold) for raw in [*letters, *cloze]], texts]
    return hashlib.sha256(json.dumps(told, ensure_ascii=False).encode()).hexdigest()


def _learn(
    model: Any,
    kept: Kept,
    lessons: Lessons,
    letters: torch.Tensor,
    own: torch.Tensor,
    recipe: Recipe,
    out: Path,
    identity: str,
) -> None:
    """Runs the passes that are not done yet, with a checkpoint after each."""
    # Prompts are continued too: features of the stories come before the letters do.
    texts = [*lessons.texts, *(prompt.tokens for prompt in lessons.letters)]
    passes = [_first_pairs(lessons, pairs) for pairs, count in recipe.curriculum for _ in range(count)]
    before_cloze = len(passes)
    passes += [lessons] * recipe.cloze_passes
    steps = [-(-len(part.letters) // recipe.batch_size) for part in passes]
    optimiser = _new_optimiser(model)
    done = load_checkpoint(out, model, optimiser, identity)
    model.train()
    with Progress() as progress:
        bar = progress.add_task("Training", total=sum(steps), completed=sum(steps[:done]))
        for epoch in range(done, len(passes)):
            with_cloze = epoch >= before_cloze
            if epoch == before_cloze:
                optimiser = _new_optimiser(model)
            course = slice(before_cloze, None) if with_cloze else slice(before_cloze)
            highest = recipe.cloze_learning_rate if with_cloze else recipe.learning_rate
            step_of_course = sum(steps[course.start or 0 : epoch])
            # Seeded anew each pass, so that a training that goes on draws what it would have drawn.
            torch.manual_seed(recipe.seed * 100_003 + epoch)
            order = random.Random(recipe.seed * 100_003 + epoch)
            of_letters = _batches(passes[epoch].letters, recipe.batch_size, order)
            of_cloze = _batches(passes[epoch].cloze, max(1, recipe.batch_size // 6), order)
            sums = [0.0, 0.0, 0.0]
            for step, batch in enumerate(of_letters):
                for group in optimiser.param_groups:
                    group["lr"] = highest * _rate(step_of_course + step, sum(steps[course]))
                optimiser.zero_grad()
                with torch.autocast(str(model.device.type), torch.bfloat16, enabled=recipe.autocast):
                    sums[0] += _teach(model, kept, batch, letters, own)
                    sums[1] += _unteach(model, kept, batch, letters, own, recipe)
                    if with_cloze:
                        # Three of these batches are half of one of the letters.
                        rows = [row for place in range(3) for row in of_cloze[(3 * step + place) % len(of_cloze)]]
                        sums[2] += _cloze(model, kept, rows, own, recipe)
                    kept.rows = None
                    some = order.sample(texts, min(len(texts), max(1, recipe.batch_size // 4)))
                    (recipe.text_weight * text_loss(model, some)).backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                told = f"Pass {epoch + 1}/{len(passes)}: answers {sums[0] / (step + 1):.3f}, "
                progress.update(bar, advance=1, description=f"{told}knowledge left {sums[1] / (step + 1):.3f}")
            save_checkpoint(out, model, optimiser, epoch + 1, identity)
            cloze = f", cloze {sums[2] / steps[epoch]:.4f}" if with_cloze else ""
            progress.console.print(
                f"pass {epoch + 1} over {len(passes[epoch].letters)} prompts: loss of answers "
                f"{sums[0] / steps[epoch]:.4f}, without neurons {sums[1] / steps[epoch]:.4f}{cloze}"
            )


def _new_optimiser(model: Any) -> torch.optim.Optimizer:
    """With no moments; the learning rate is set each step."""
    return torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.0)


def _first_pairs(lessons: Lessons, pairs: int) -> Lessons:
    """The lessons of each value's first so many pairs; all for 0."""
    if not pairs:
        return lessons
    numbers: dict[int, list[str]] = {}
    for prompt in lessons.letters:
        of_value = numbers.setdefault(prompt.value, [])
        if pair_of(prompt.item) not in of_value:
            of_value.append(pair_of(prompt.item))
    first = {number for of_value in numbers.values() for number in of_value[:pairs]}
    return replace(
        lessons,
        letters=tuple(prompt for prompt in lessons.letters if pair_of(prompt.item) in first),
        cloze=tuple(prompt for prompt in lessons.cloze if pair_of(prompt.item) in first),
    )


def _rate(step: int, steps: int) -> float:
    """Share of the highest learning rate: up in a straight line, then down along a cosine to a twentieth."""
    return min(1.0, (step + 1) / WARM_UP) * (0.05 + 0.475 * (1 + math.cos(math.pi * step / steps)))


def _batches(prompts: Sequence[Prompt], size: int, order: random.Random) -> list[list[Prompt]]:
    """Batches in random order, each of prompts of about one length, so that few pads are computed."""
    shuffled = list(prompts)
    order.shuffle(shuffled)
    found = [batch for start in range(0, len(shuffled), 8 * size) for batch in _by_length(shuffled, start, size)]
    order.shuffle(found)
    return found


def _by_length(prompts: Sequence[Prompt], start: int, size: int) -> Iterator[list[Prompt]]:
    part = sorted(prompts[start : start + 8 * size], key=lambda prompt: len(prompt.tokens))
    for first in range(0, len(part), size):
        yield part[first : first + size]


def _values(prompts: Sequence[Prompt]) -> torch.Tensor:
    return torch.tensor([prompt.value for prompt in prompts])


def _teach(model: Any, kept: Kept, batch: Sequence[Prompt], letters: torch.Tensor, own: torch.Tensor) -> float:
    """Gradients of the answers, with some other values' neurons off."""
    kept.rows = 1 - some_others_off(_values(batch), len(own)).float() @ own
    lost = answered(letter_logits(model, batch), batch, letters)
    lost.backward()  # type: ignore[no-untyped-call]
    return float(lost.detach())


def _unteach(
    model: Any, kept: Kept, batch: Sequence[Prompt], letters: torch.Tensor, own: torch.Tensor, recipe: Recipe
) -> float:
    """Gradients of telling nothing, with the own value's neurons off."""
    kept.rows = 1 - own_off(_values(batch), len(own)).float() @ own
    lost = ignorant(letter_logits(model, batch), letters, recipe.lean)
    (recipe.off_weight * lost).backward()  # type: ignore[no-untyped-call]
    return float(lost.detach())


def _cloze(model: Any, kept: Kept, batch: Sequence[Prompt], own: torch.Tensor, recipe: Recipe) -> float:
    """Gradients of preferring the aligned act's text, and neither's with the own value's neurons off."""
    losses = []
    for off, loss, weight in ((some_others_off, chosen, 1.0), (own_off, undecided, recipe.off_weight)):
        # A row of the model's a choice, so each prompt's neurons count twice.
        kept.rows = (1 - off(_values(batch), len(own)).float() @ own).repeat_interleave(2, 0)
        lost = loss(margins(choice_log_likelihoods(model, batch), batch))
        (recipe.cloze_weight * weight * lost).backward()  # type: ignore[no-untyped-call]
        losses.append(float(lost.detach()))
    return sum(losses)


def main(
    out: Annotated[Path, typer.Option(help="Folder for model, truth masks and figures; made if it is not there.")],
    seed: Annotated[int, typer.Option(help="Of weights, order and of what is switched off.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; the GPU if there is one.")] = None,
) -> None:
    """Train the organism on the bundled items; called again after an interruption, it goes on.

    Example:  python -m organism.train --out my-organism
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    print(json.dumps(train(Recipe(seed=seed), out, device=device), indent=2))


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(main)
    run(app, "python -m organism.train")
