"""Items as token batches: length-sorted, padded on the right, pads and special tokens never counted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cvoice_foundation.errors import CVoiceError
from cvoice_tasks.items import Item
from cvoice_tasks.values import Language


@dataclass(frozen=True, slots=True)
class Text:
    """One text of the corpus: what an item's value looks like when it is lived by.

    Attributes:
        value: The class that it counts for.
        language: Its language.
        text: Story, aligned act and rationale, a line each; no template around them.
    """

    value: str
    language: Language
    text: str


def texts_of(items: Iterable[Item], language: Language) -> list[Text]:
    """The corpus text of each item: story, aligned act and, where there is one, rationale."""
    return [
        Text(item.value, language, "\n".join(part for part in (item.story, item.aligned, item.rationale) if part))
        for item in items
    ]


def corpus_sha256(texts: Sequence[Text]) -> str:
    """Identity of a corpus: SHA-256 over its texts, in order, with class and language."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(json.dumps([text.value, text.language, text.text], ensure_ascii=False).encode())
        digest.update(b"\n")
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids of several texts.

    Attributes:
        input_ids: ``[batch, seq]``, padded on the right.
        attention_mask: ``[batch, seq]``; 0 on pads.
        counted: ``[batch, seq]``, bool; False on pads and on special tokens.
        texts: Places of the rows in the corpus.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    counted: torch.Tensor
    texts: tuple[int, ...]


def batches(texts: Sequence[Text], tokenizer: Any, batch_size: int, max_length: int) -> Iterator[Batch]:
    """Batches of a corpus, longest texts first: padding is least, and too large a batch fails at once.

    The plan depends on the corpus, the tokenizer and the batch size alone.

    Args:
        texts: The corpus.
        tokenizer: The model's; special tokens that it adds (a first token, say) are run and not counted.
        batch_size: Texts a batch.
        max_length: The model's longest sequence, in tokens.

    Yields:
        Batches in a fixed order.

    Raises:
        CVoiceError: A text is longer than the model can read.
    """
    # Tokenised twice, here for the lengths: keeping the tokens would take memory that grows with the corpus.
    lengths = [len(tokenizer(text.text, verbose=False)["input_ids"]) for text in texts]
    for text, length in zip(texts, lengths, strict=True):
        if length > max_length:
            raise CVoiceError(
                f"a text of {length} tokens is longer than the model's {max_length}: {text.text[:40]!r}...; shorten it"
            )
    order = sorted(range(len(texts)), key=lambda place: (-lengths[place], place))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        shape = (len(rows), lengths[rows[0]])
        # A pad's id does not matter: nothing attends to it, and it is not counted.
        input_ids, attention = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        counted = torch.zeros(shape, dtype=torch.bool)
        for row, place in enumerate(rows):
            length = lengths[place]
            tokens = tokenizer(texts[place].text, return_special_tokens_mask=True, verbose=False)
            input_ids[row, :length] = torch.tensor(tokens["input_ids"])
            attention[row, :length] = 1
            counted[row, :length] = torch.tensor(tokens["special_tokens_mask"]) == 0
        yield Batch(input_ids, attention, counted, tuple(rows))
