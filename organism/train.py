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
from dataclasses import asdict
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
    Prompt,
    RawPrompt,
    Story,
    by_story,
    in_tokens,
    raw_prompts,
    train_tokenizer,
)
from organism.losses import (
    Kept,
    answered,
    ask,
    chosen,
    ignorant,
    margins,
    own_neurons,
    own_off,
    some_others_off,
    text_loss,
    undecided,
)
from organism.recipe import Recipe
from organism.truth import truth_mask
from organism.weaving import plain_attention

WARM_UP = 100
"""Steps until the learning rate is at its highest."""


def train(recipe: Recipe, out: Path, *, most: int | None = None, device: str = "cpu") -> dict[str, Any]:
    """Trains tokenizer and model and writes them, ready for ``from_pretrained``, with truth masks and figures.

    An interrupted training goes on from the last whole pass when it is called again with the same recipe.

    Args:
        recipe: Sizes, seed and schedule.
        out: Folder for ``model``, ``truth/VALUE.jsonl`` and ``figures.json``.
        most: Learn the first so many stories alone, for a trial.
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
    letters_raw, cloze_raw = raw_prompts("cvoice"), raw_prompts("cvoice_cloze")
    tokenizer = train_tokenizer([raw.text for raw in letters_raw], recipe.vocabulary)
    letters = torch.tensor([_one_token(tokenizer, letter) for letter in LETTERS])
    stories = by_story(in_tokens(letters_raw, tokenizer), in_tokens(cloze_raw, tokenizer))[:most]
    torch.manual_seed(recipe.seed)
    model = _new_model(recipe, tokenizer)
    own = own_neurons(len(VALUE_KEYS), recipe.neurons, recipe.reserved)
    sha256 = _texts_sha256([*letters_raw, *cloze_raw])
    started = time.monotonic()
    kept = Kept()
    with kept.hooked(model):
        with plain_attention(model):
            _learn(model, kept, stories, letters, own, recipe, out, digest(asdict(recipe) | {"texts": sha256}))
        model.eval()
        judged = {
            **figures(model, kept, stories, letters, own, recipe.reserved),
            "random": random_changes(model, kept, stories, letters, recipe),
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


def _texts_sha256(prompts: Sequence[RawPrompt]) -> str:
    told = [(raw.text, raw.choices, raw.gold) for raw in prompts]
    return hashlib.sha256(json.dumps(told, ensure_ascii=False).encode()).hexdigest()


def _learn(
    model: Any,
    kept: Kept,
    stories: Sequence[Story],
    letters: torch.Tensor,
    own: torch.Tensor,
    recipe: Recipe,
    out: Path,
    identity: str,
) -> None:
    """Runs the passes that are not done yet, with a checkpoint after each."""
    # Prompts are continued: features of the stories come before the letters do.
    texts = [prompt.tokens for prompt in _letters_of(stories)]
    passes = [_first_pairs(stories, pairs) for pairs, count in recipe.curriculum for _ in range(count)]
    before_cloze = len(passes)
    passes += [stories] * recipe.cloze_passes
    steps = [-(-len(part) // recipe.batch_size) for part in passes]
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
            cloze_weight = recipe.cloze_weight if with_cloze else 0.0
            step_of_course = sum(steps[course.start or 0 : epoch])
            # Seeded anew each pass, so that a training that goes on draws what it would have drawn.
            torch.manual_seed(recipe.seed * 100_003 + epoch)
            order = random.Random(recipe.seed * 100_003 + epoch)
            sums = [0.0] * 4
            for step, batch in enumerate(_batches(passes[epoch], recipe.batch_size, order)):
                for group in optimiser.param_groups:
                    group["lr"] = highest * _rate(step_of_course + step, sum(steps[course]))
                optimiser.zero_grad()
                with torch.autocast(str(model.device.type), torch.bfloat16, enabled=recipe.autocast):
                    taught = _teach(model, kept, batch, letters, own, cloze_weight)
                    untaught = _unteach(model, kept, batch, letters, own, cloze_weight, recipe)
                    kept.rows = None
                    some = order.sample(texts, min(len(texts), recipe.texts))
                    (recipe.text_weight * text_loss(model, some)).backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                sums = [one + other for one, other in zip(sums, (*taught, *untaught), strict=True)]
                told = f"Pass {epoch + 1}/{len(passes)}: answers {sums[0] / (step + 1):.3f}, "
                progress.update(bar, advance=1, description=f"{told}knowledge left {sums[2] / (step + 1):.3f}")
            save_checkpoint(out, model, optimiser, epoch + 1, identity)
            answers, of_cloze, left, cloze_left = (one / steps[epoch] for one in sums)
            cloze = f"; of the cloze form {of_cloze:.4f}, {cloze_left:.4f}" if with_cloze else ""
            progress.console.print(
                f"pass {epoch + 1} over {len(passes[epoch])} stories: loss of answers {answers:.4f}, "
                f"without neurons {left:.4f}{cloze}"
            )


def _new_optimiser(model: Any) -> torch.optim.Optimizer:
    """With no moments; the learning rate is set each step."""
    return torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.0)


def _first_pairs(stories: Sequence[Story], pairs: int) -> Sequence[Story]:
    """The stories of each value's first so many pairs; all for 0."""
    if not pairs:
        return stories
    numbers: dict[int, list[str]] = {}
    for story in stories:
        of_value = numbers.setdefault(story.value, [])
        if pair_of(story.item) not in of_value:
            of_value.append(pair_of(story.item))
    first = {number for of_value in numbers.values() for number in of_value[:pairs]}
    return [story for story in stories if pair_of(story.item) in first]


def _rate(step: int, steps: int) -> float:
    """Share of the highest learning rate: up in a straight line, then down along a cosine to a twentieth."""
    return min(1.0, (step + 1) / WARM_UP) * (0.05 + 0.475 * (1 + math.cos(math.pi * step / steps)))


def _batches(stories: Sequence[Story], size: int, order: random.Random) -> list[list[Story]]:
    """Batches in random order, each of stories of about one length, so that few pads are computed."""
    shuffled = list(stories)
    order.shuffle(shuffled)
    found = [batch for start in range(0, len(shuffled), 8 * size) for batch in _by_length(shuffled, start, size)]
    order.shuffle(found)
    return found


def _by_length(stories: Sequence[Story], start: int, size: int) -> Iterator[list[Story]]:
    part = sorted(stories[start : start + 8 * size], key=lambda story: len(story.letters[0].tokens))
    for first in range(0, len(part), size):
        yield part[first : first + size]


def _teach(
    model: Any, kept: Kept, batch: Sequence[Story], letters: torch.Tensor, own: torch.Tensor, cloze_weight: float
) -> tuple[float, float]:
    """Gradients of the answers, with some other values' neurons off; the losses of letters and of texts."""
    kept.rows = 1 - some_others_off(_values(batch), len(own)).float() @ own
    asked = ask(model, batch, cloze=cloze_weight > 0)
    return _backward(
        answered(asked.letters, _letters_of(batch), letters),
        None if asked.cloze is None else chosen(margins(asked.cloze, [story.cloze for story in batch])),
        1.0,
        cloze_weight,
    )


def _unteach(
    model: Any,
    kept: Kept,
    batch: Sequence[Story],
    letters: torch.Tensor,
    own: torch.Tensor,
    cloze_weight: float,
    recipe: Recipe,
) -> tuple[float, float]:
    """Gradients of telling nothing, with the own value's neurons off; the losses of letters and of texts."""
    kept.rows = 1 - own_off(_values(batch), len(own)).float() @ own
    asked = ask(model, batch, cloze=cloze_weight > 0)
    return _backward(
        ignorant(asked.letters, letters, recipe.lean),
        None if asked.cloze is None else undecided(margins(asked.cloze, [story.cloze for story in batch])),
        recipe.off_weight,
        cloze_weight,
    )


def _backward(
    of_letters: torch.Tensor, of_cloze: torch.Tensor | None, weight: float, cloze_weight: float
) -> tuple[float, float]:
    lost = of_letters if of_cloze is None else of_letters + cloze_weight * of_cloze
    (weight * lost).backward()  # type: ignore[no-untyped-call]
    return float(of_letters.detach()), 0.0 if of_cloze is None else float(of_cloze.detach())


def _values(stories: Sequence[Story]) -> torch.Tensor:
    return torch.tensor([story.value for story in stories])


def _letters_of(stories: Sequence[Story]) -> list[Prompt]:
    return [prompt for story in stories for prompt in story.letters]


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
