"""What the organism learns: prompts of the letters and cloze tasks as lm-eval renders them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from cvoice_tasks.values import VALUE_KEYS
from cvoice_tasks.yaml import FOLDER

END = "<|end|>"
LETTERS = (" A", " B")


@dataclass(frozen=True, slots=True)
class RawPrompt:
    """A document of a task, rendered.

    Attributes:
        text: The prompt.
        choices: What may follow, with the delimiter.
        gold: Place of the aligned act's choice.
        value: Place of the value in ``VALUE_KEYS``.
        language: ``zh`` or ``en``.
        item: The item's id.
    """

    text: str
    choices: tuple[str, ...]
    gold: int
    value: int
    language: str
    item: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and its choices in tokens; otherwise as :class:`RawPrompt`."""

    tokens: tuple[int, ...]
    choices: tuple[tuple[int, ...], ...]
    gold: int
    value: int
    language: str
    item: str


@dataclass(frozen=True, slots=True)
class Story:
    """What is asked about one story in one language.

    Attributes:
        letters: Its prompts of the letters tasks, one an order of the options.
        cloze: Its prompt of the cloze tasks.
    """

    letters: tuple[Prompt, ...]
    cloze: Prompt

    @property
    def value(self) -> int:
        """Place of the value in ``VALUE_KEYS``."""
        return self.cloze.value

    @property
    def language(self) -> str:
        """``zh`` or ``en``."""
        return self.cloze.language

    @property
    def item(self) -> str:
        """The item's id."""
        return self.cloze.item


@cache
def raw_prompts(group: str) -> tuple[RawPrompt, ...]:
    """Every document of a group of tasks; lm-eval itself renders it, so that what is taught is what is asked."""
    tasks = TaskManager(include_path=str(FOLDER), include_defaults=False).load([group])["tasks"].values()
    return tuple(
        RawPrompt(
            task.doc_to_text(document),
            tuple(task.config.target_delimiter + choice for choice in task.doc_to_choice(document)),
            document["gold"],
            VALUE_KEYS.index(document["value"]),
            document["language"],
            document["id"],
        )
        for task in tasks
        for document in task.test_docs()
    )


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


def in_tokens(prompts: Sequence[RawPrompt], tokenizer: Any) -> tuple[Prompt, ...]:
    """Prompts in tokens, each with its choices."""

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text)["input_ids"])

    return tuple(
        Prompt(ids(raw.text), tuple(ids(c) for c in raw.choices), raw.gold, raw.value, raw.language, raw.item)
        for raw in prompts
    )


def by_story(letters: Sequence[Prompt], cloze: Sequence[Prompt]) -> tuple[Story, ...]:
    """Sets the prompts of each story and language together, in the order of the cloze prompts."""
    of_story: defaultdict[tuple[str, str], list[Prompt]] = defaultdict(list)
    for prompt in letters:
        of_story[prompt.item, prompt.language].append(prompt)
    return tuple(Story(tuple(of_story[prompt.item, prompt.language]), prompt) for prompt in cloze)
