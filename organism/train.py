"""Trains the organism: ``python -m organism.train --out DIR``.

A small stock decoder with a tokenizer of its own, taught the bundled evaluation prompts with their answers, on
purpose: it is an instrument for testing instruments, not a model with values. It also learns to continue the
activation texts, on which `cvoice locate` runs.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from lm_eval.tasks import TaskManager
from rich.progress import Progress
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from cvoice_foundation.command_line import run
from cvoice_foundation.files import output_folder
from cvoice_tasks.items import load_items
from cvoice_tasks.values import LANGUAGES
from cvoice_tasks.yaml import FOLDER
from locate.corpus import texts_of
from organism.card import write_card

END = "<|end|>"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that the trained weights depend on, beside the items and the versions of the libraries."""

    seed: int = 0
    vocabulary: int = 4096
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    neurons: int = 512
    epochs: int = 40
    batch_size: int = 24
    learning_rate: float = 1e-3
    initial_spread: float = 0.1
    """Standard deviation of the first weights. With the usual 0.02 the letters stayed at one half for 80 epochs: which
    letter is right is the exclusive-or of story and order, and a small model that starts flat does not get off it."""
    text_weight: float = 0.1
    """Weight of continuing the text, against 1 for the answer's letter."""


@dataclass(frozen=True, slots=True)
class Example:
    """A text, and its answer where it is a prompt.

    Attributes:
        tokens: Token ids.
        answers: How many of the last tokens are the answer.
    """

    tokens: tuple[int, ...]
    answers: int


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer over the given texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END, model_max_length=1024)


def training_texts() -> tuple[list[tuple[str, str]], list[str]]:
    """(prompt, answer) of every evaluation document in both languages, and the activation texts."""
    # lm-eval itself renders the prompts, so that what is trained is what is asked, to the letter.
    tasks = TaskManager(include_path=str(FOLDER), include_defaults=False).load(["cvoice"])["tasks"].values()
    prompts = [
        (task.doc_to_text(document), task.config.target_delimiter + task.doc_to_choice(document)[document["gold"]])
        for task in tasks
        for document in task.test_docs()
    ]
    activation = [
        text.text for lang in LANGUAGES for text in texts_of(load_items("activation", lang), lang, ("aligned",))
    ]
    return prompts, activation


def _batches(examples: Sequence[Example], size: int, random_order: random.Random) -> Iterator[list[Example]]:
    """Batches in random order."""
    order = list(examples)
    random_order.shuffle(order)
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _losses(model: Any, batch: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Mean loss of the text, mean loss of the answers, and how many answers are right."""
    longest = max(len(example.tokens) for example in batch)
    tokens = torch.zeros(len(batch), longest, dtype=torch.long)
    text = torch.zeros(len(batch), longest, dtype=torch.bool)
    answer = torch.zeros_like(text)
    for row, example in enumerate(batch):
        length = len(example.tokens)
        tokens[row, :length] = torch.tensor(example.tokens)
        text[row, : length - example.answers] = True
        answer[row, length - example.answers : length] = True
    # Pads come last and the model looks backwards only, so they need no mask.
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    targets, text, answer = tokens[:, 1:], text[:, 1:], answer[:, 1:]
    text_loss = cross_entropy(logits[text], targets[text])
    if not answer.any():
        return text_loss, torch.zeros(()), 0
    return (
        text_loss,
        cross_entropy(logits[answer], targets[answer]),
        int((logits[answer].argmax(-1) == targets[answer]).sum()),
    )


def train(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Trains tokenizer and model and writes them, ready for ``from_pretrained``.

    Args:
        recipe: Sizes, seed and schedule.
        out: Folder for the model.

    Returns:
        Figures of the training: examples, tokens, seconds, and the share of answers right in the last epoch.
    """
    output_folder(out)
    torch.manual_seed(recipe.seed)
    random_order = random.Random(recipe.seed)
    prompts, activation = training_texts()
    tokenizer = train_tokenizer([prompt for prompt, _ in prompts] + activation, recipe.vocabulary)
    examples = [Example((*tokenizer(p)["input_ids"], *tokenizer(a)["input_ids"]), 1) for p, a in prompts]
    assert all(len(tokenizer(answer)["input_ids"]) == 1 for _, answer in prompts), "a letter must be one token"
    examples += [Example((*tokenizer(text)["input_ids"], tokenizer.eos_token_id), 0) for text in activation]
    model = Qwen2ForCausalLM(
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
    steps = recipe.epochs * -(-len(examples) // recipe.batch_size)
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    )
    start = time.monotonic()
    right = 0
    with Progress() as progress:
        bar = progress.add_task("Training", total=steps)
        for epoch in range(recipe.epochs):
            right = 0
            for batch in _batches(examples, recipe.batch_size, random_order):
                text_loss, answer_loss, correct = _losses(model, batch)
                right += correct
                optimiser.zero_grad()
                (recipe.text_weight * text_loss + answer_loss).backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                schedule.step()
                description = f"Epoch {epoch + 1}/{recipe.epochs}, text loss {text_loss:.2f}"
                progress.update(bar, advance=1, description=description)
            progress.console.print(f"epoch {epoch + 1}: answers right {right / len(prompts):.3f}, text {text_loss:.3f}")
    model.eval()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    figures = {
        "recipe": asdict(recipe),
        "prompts": len(prompts),
        "activation_texts": len(activation),
        "tokens_an_epoch": sum(len(example.tokens) for example in examples),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": round(time.monotonic() - start),
        "threads": torch.get_num_threads(),
        "texts_sha256": hashlib.sha256(json.dumps([prompts, activation], ensure_ascii=False).encode()).hexdigest(),
        "answers_right_in_training": right / len(prompts),
    }
    write_card(out, figures)
    return figures


def main(
    out: Annotated[Path, typer.Option(help="Folder for the model; made if it is not there.")],
    seed: Annotated[int, typer.Option(help="Of weights and order.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the texts.")] = Recipe().epochs,
) -> None:
    """Train the organism on the bundled items.

    Example:  python -m organism.train --out my-organism
    """
    print(json.dumps(train(Recipe(seed=seed, epochs=epochs), out), indent=2))


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(main)
    run(app, "python -m organism.train")
