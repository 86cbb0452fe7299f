"""A second lesson for the organism: each value's choices hang on neurons of its own: ``python -m organism.teach``.

In every layer a few neurons are reserved for each value. The model goes on learning the answers, and unlearns what it
knows without them: with a value's neurons off (and with all reserved ones off) its letters are trained towards one half
each. So which neurons carry a value is known: it was trained for. The bundled model has not had this lesson yet.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from lm_eval.tasks import TaskManager
from rich.progress import Progress
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from cvoice_foundation.command_line import run
from cvoice_foundation.files import output_folder, write_whole
from cvoice_tasks.values import LANGUAGES, VALUE_KEYS
from cvoice_tasks.yaml import FOLDER
from intervention.bundled import model_path
from intervention.mask import MaskedLayer, ModelIdentity, NeuronMask
from intervention.neurons import find_neurons
from organism.train import training_texts

LETTERS = (" A", " B")


@dataclass(frozen=True, slots=True)
class Lesson:
    """Everything that the taught weights depend on, beside the model that they start from.

    Attributes:
        seed: Of order and of what is switched off.
        reserved: Neurons a layer for each value; as many more are a control that nothing is taught about.
        epochs: Passes over the prompts.
        batch_size: Prompts a step.
        learning_rate: At its highest.
        off_weight: Of the letters' evenness with neurons off, against 1 for the answers.
        text_weight: Of continuing the activation texts.
    """

    seed: int = 0
    reserved: int = 24
    epochs: int = 60
    batch_size: int = 24
    learning_rate: float = 2e-3
    off_weight: float = 2.0
    text_weight: float = 0.1


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt of the letters tasks: its tokens, the place of its value, its right letter, its language."""

    tokens: tuple[int, ...]
    value: int
    gold: int
    language: str


def prompts_of(tokenizer: Any) -> list[Prompt]:
    """All prompts of the letters tasks, as lm-eval renders them."""
    tasks = TaskManager(include_path=str(FOLDER), include_defaults=False).load(["cvoice"])["tasks"]
    return [
        Prompt(
            tuple(tokenizer(task.doc_to_text(doc))["input_ids"]),
            VALUE_KEYS.index(doc["value"]),
            doc["gold"],
            doc["language"],
        )
        for task in tasks.values()
        for doc in task.test_docs()
    ]


def truth_mask(value: str, layers: int, width: int, reserved: int, name: str | None = None) -> NeuronMask:
    """The neurons that are reserved for a value."""
    start = VALUE_KEYS.index(value) * reserved
    neurons = tuple(range(start, start + reserved))
    lines = tuple(MaskedLayer(layer, neurons) for layer in range(layers))
    model = ModelIdentity(name, None, "Qwen2ForCausalLM", layers, width)
    return NeuronMask(value, model, lines, method={"name": "reserved", "neurons_a_layer": reserved})


class _Kept:
    """Multiplies every layer's neurons by 1 or 0, row by row of a batch."""

    def __init__(self) -> None:
        self.rows: torch.Tensor | None = None

    @contextmanager
    def hooked(self, model: Any) -> Iterator[None]:
        def hook(_: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
            return None if self.rows is None else (args[0] * self.rows[:, None, :],)

        handles = [layer.down.register_forward_pre_hook(hook) for layer in find_neurons(model)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def teach(lesson: Lesson, out: Path, *, model_name: str = "organism", most: int | None = None) -> dict[str, Any]:
    """Teaches a trained organism, and writes it with its truth masks and figures.

    Args:
        lesson: Schedule and sizes.
        out: Folder for ``model``, ``truth/VALUE.jsonl`` and ``figures.json``.
        model_name: Where to start from: an organism that knows the answers.
        most: Learn the first so many prompts alone, for a trial.

    Returns:
        The figures: see :func:`figures`.
    """
    output_folder(out)
    torch.manual_seed(lesson.seed)
    order = random.Random(lesson.seed)
    path = model_path(model_name)
    model: Any = AutoModelForCausalLM.from_pretrained(path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    prompts = prompts_of(tokenizer)[:most]
    letters = torch.tensor([tokenizer(letter)["input_ids"][0] for letter in LETTERS])
    texts = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in training_texts()[1]]
    width = model.config.intermediate_size
    own = torch.zeros(len(VALUE_KEYS), width)
    for value in range(len(VALUE_KEYS)):
        own[value, value * lesson.reserved : (value + 1) * lesson.reserved] = 1
    steps = lesson.epochs * -(-len(prompts) // lesson.batch_size)
    optimiser = torch.optim.AdamW(model.parameters(), lr=lesson.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min(1.0, (step + 1) / 100) * (0.05 + 0.475 * (1 + math.cos(math.pi * min(1.0, step / steps)))),
    )
    kept = _Kept()
    model.train()
    with kept.hooked(model), Progress() as progress:
        bar = progress.add_task("Teaching", total=steps)
        for epoch in range(lesson.epochs):
            places = list(range(len(prompts)))
            order.shuffle(places)
            order.shuffle(texts)
            for start in range(0, len(places), lesson.batch_size):
                batch = [prompts[place] for place in places[start : start + lesson.batch_size]]
                optimiser.zero_grad()
                answers, evenness = _step(model, kept, batch, own, letters, lesson)
                kept.rows = None
                _text_loss(model, texts, start, lesson).backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                schedule.step()
                told = f"Epoch {epoch + 1}/{lesson.epochs}, answers {answers:.3f}, evenness {evenness:.4f}"
                progress.update(bar, advance=1, description=told)
        model.eval()
        found = figures(model, kept, prompts, own, letters)
    model.save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")
    output_folder(out / "truth")
    for name in VALUE_KEYS:
        mask = truth_mask(name, model.config.num_hidden_layers, width, lesson.reserved)
        mask.save(out / "truth" / f"{name}.jsonl")
    result = {"lesson": asdict(lesson), "start": model_name, **found}
    write_whole(out / "figures.json", json.dumps(result, indent=1) + "\n")
    return result


def _step(
    model: Any, kept: _Kept, batch: Sequence[Prompt], own: torch.Tensor, letters: torch.Tensor, lesson: Lesson
) -> tuple[float, float]:
    """Gradients of the answers and of the letters' evenness; returns both losses."""
    tokens, last = _padded([prompt.tokens for prompt in batch])
    gold = torch.tensor([prompt.gold for prompt in batch])
    value = torch.tensor([prompt.value for prompt in batch])
    rows, count = torch.arange(len(batch)), len(own)
    # In half of the prompts a quarter of the other values is off, so that answers do not lean on them.
    off = (torch.rand(len(batch), count) < 0.25) & (torch.rand(len(batch), 1) < 0.5)
    off[rows, value] = False
    kept.rows = 1 - off.float() @ own
    answers = cross_entropy(_at_end(model, tokens, last), letters[gold])
    answers.backward()  # type: ignore[no-untyped-call]
    # The own value's neurons off: in three prompts of ten with all reserved ones, in two with half of the others.
    kind = torch.rand(len(batch), 1)
    off = (kind < 0.3).expand(-1, count) | ((kind < 0.5) & (torch.rand(len(batch), count) < 0.5))
    off[rows, value] = True
    kept.rows = 1 - off.float() @ own
    log_p = _at_end(model, tokens, last).log_softmax(-1)
    evenness = -log_p[:, letters].mean() - math.log(2)
    (lesson.off_weight * evenness).backward()  # type: ignore[no-untyped-call]
    return float(answers.detach()), float(evenness.detach())


def _padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = torch.tensor(row)
    return tokens, torch.tensor([len(row) - 1 for row in rows])


def _at_end(model: Any, tokens: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """Logits behind the last token of each row."""
    hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state
    logits: torch.Tensor = model.lm_head(hidden[torch.arange(len(last)), last])
    return logits


def _text_loss(model: Any, texts: Sequence[Sequence[int]], start: int, lesson: Lesson) -> torch.Tensor:
    half = lesson.batch_size // 2 or 1
    first = start // 2 % len(texts)
    tokens, last = _padded(texts[first : first + half])
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    there = torch.arange(tokens.shape[1] - 1)[None] < last[:, None]
    return lesson.text_weight * cross_entropy(logits[there], tokens[:, 1:][there])


@torch.no_grad()
def figures(
    model: Any, kept: _Kept, prompts: Sequence[Prompt], own: torch.Tensor, letters: torch.Tensor
) -> dict[str, Any]:
    """What the lesson is judged by: `acc` unmasked, with each value's neurons off, and with all reserved ones off."""
    value = torch.tensor([prompt.value for prompt in prompts])

    def margins(keep: torch.Tensor | None) -> torch.Tensor:
        found = []
        for start in range(0, len(prompts), 64):
            part = prompts[start : start + 64]
            tokens, last = _padded([prompt.tokens for prompt in part])
            kept.rows = None if keep is None else keep.expand(len(part), -1)
            pair = _at_end(model, tokens, last)[:, letters]
            gold = torch.tensor([prompt.gold for prompt in part])[:, None]
            found.append((pair.gather(1, gold) - pair.gather(1, 1 - gold)).squeeze(1))
        return torch.cat(found)

    plain = margins(None)
    result: dict[str, Any] = {"acc": {}, "own": {}, "others": {}, "own_margin": {}}
    for language in LANGUAGES:
        of_language = torch.tensor([prompt.language == language for prompt in prompts])
        result["acc"][language] = float((plain[of_language] > 0).float().mean())
    for place in sorted(set(value.tolist())):
        masked, name = margins(1 - own[place]), VALUE_KEYS[place]
        mine, others = value == place, value != place
        result["own"][name] = float((masked[mine] > 0).float().mean())
        result["own_margin"][name] = float(masked[mine].abs().mean())
        result["others"][name] = (
            float(((masked > 0).float() - (plain > 0).float())[others].mean()) if others.any() else 0.0
        )
    result["all_reserved_off"] = float((margins(1 - own.sum(0)) > 0).float().mean())
    kept.rows = None
    return result


def main(
    out: Annotated[Path, typer.Option(help="Folder for model, truth masks and figures.")],
    model: Annotated[str, typer.Option(help="An organism that knows the answers.")] = "organism",
    seed: Annotated[int, typer.Option(help="Of order and of what is switched off.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the prompts.")] = Lesson().epochs,
) -> None:
    """Teach the organism to keep each value in neurons of its own.

    Example:  python -m organism.teach --out taught
    """
    print(json.dumps(teach(Lesson(seed=seed, epochs=epochs), out, model_name=model), indent=1))


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(main)
    run(app, "python -m organism.teach")
