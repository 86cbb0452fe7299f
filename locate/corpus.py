"""Items as token batches: length-sorted, padded on the right, one fixed plan for every number of processes."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from cvoice_foundation.errors import CVoiceError
from cvoice_tasks.items import Item, pair_of
from cvoice_tasks.values import Language
from locate.segments import NO_PART, PARTS, Part, part_codes, render

Stance = Literal["aligned", "violating"]
STANCES: tuple[Stance, ...] = get_args(Stance)
NUM_FOLDS = 8


@dataclass(frozen=True, slots=True)
class Text:
    """One text of the corpus: a story, and one act that ends it.

    Attributes:
        value: The value at stake.
        language: Its language.
        stance: Whether the act upholds the value or gives it up.
        pair: Its pair number, the cluster of twins.
        story: The dilemma.
        action: The act.
        rationale: Why the aligned act expresses the value; empty behind a violating one.
    """

    value: str
    language: Language
    stance: Stance
    pair: str
    story: str
    action: str
    rationale: str = ""

    @property
    def parts(self) -> dict[Part, str]:
        """Its parts in reading order."""
        return {"story": self.story, "action": self.action, "rationale": self.rationale}

    @property
    def text(self) -> str:
        """Story, act and, where there is one, rationale, a line each: what a base model reads."""
        return "\n".join(part for part in self.parts.values() if part)


def texts_of(items: Iterable[Item], language: Language, stances: Sequence[Stance] = STANCES) -> list[Text]:
    """The corpus texts of items: each story with its aligned act and rationale, and with its violating act."""
    texts = []
    for item in items:
        pair = pair_of(item.id)
        if "aligned" in stances:
            texts.append(Text(item.value, language, "aligned", pair, item.story, item.aligned, item.rationale))
        if "violating" in stances:
            texts.append(Text(item.value, language, "violating", pair, item.story, item.violating))
    return texts


def fold_of(pair: str, folds: int = NUM_FOLDS) -> int:
    """The fold of a pair number: the number modulo the folds, so that values have their pairs in the same folds."""
    digits = re.search(r"\d+$", pair)
    return (int(digits[0]) if digits else zlib.crc32(pair.encode())) % folds


def corpus_sha256(texts: Sequence[Text]) -> str:
    """Identity of a corpus: SHA-256 over its texts, in order, with class and language."""
    digest = hashlib.sha256()
    for text in texts:
        line = [text.value, text.language, text.stance, text.pair, text.story, text.action, text.rationale]
        digest.update(json.dumps(line, ensure_ascii=False).encode())
        digest.update(b"\n")
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of one text, and of which part each token is (see :func:`locate.segments.part_codes`)."""

    ids: array[int]
    codes: array[int]

    def __len__(self) -> int:
        return len(self.ids)


def tokenize(texts: Sequence[Text], tokenizer: Any, *, chat: bool, max_length: int) -> list[Tokens]:
    """Tokenizes a corpus; five bytes a token are kept.

    Args:
        texts: The corpus.
        tokenizer: The model's, a fast one: it tells which characters a token stands for.
        chat: Whether to apply its chat template.
        max_length: The model's longest sequence, in tokens.

    Raises:
        CVoiceError: A text is longer than the model reads or has no token of its act, or the tokenizer is a slow one.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise CVoiceError(
            "this tokenizer does not tell where its tokens lie in the text; a fast one (tokenizer.json) does"
        )
    tokenized = []
    for text in texts:
        whole, spans = render(text.parts, tokenizer, chat)
        encoded = tokenizer(
            whole,
            add_special_tokens=not chat,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            verbose=False,
        )
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        if len(ids) > max_length:
            raise CVoiceError(
                f"a text of {len(ids)} tokens is longer than the model's {max_length}: {whole[:40]!r}...; shorten it"
            )
        codes = part_codes(offsets, encoded["special_tokens_mask"], spans)
        if PARTS.index("action") not in codes:
            raise CVoiceError(f"the tokenizer leaves no token of this act: {text.action!r}; reword it")
        tokenized.append(Tokens(array("i", ids), array("b", codes)))
    return tokenized


@dataclass(frozen=True, slots=True)
class Group:
    """Texts that are read together: whole pairs, so that differences within a pair need nothing kept between groups.

    Attributes:
        rows: Places of the texts in the corpus, longest first.
        units: Of each row, which pair of the group it is of.
        batches: ``[start, end)`` in ``rows`` of each forward pass.
    """

    rows: tuple[int, ...]
    units: tuple[int, ...]
    batches: tuple[tuple[int, int], ...]


def plan(texts: Sequence[Text], tokens: Sequence[Tokens], batch_size: int) -> list[Group]:
    """The fixed order of a pass: pairs by length, longest first, so that too large a batch fails at once.

    A group holds about two batches of texts. A pair's texts differ in length (one act has a rationale behind it, the
    other none), so within a group the rows are sorted again and cut into batches.

    Args:
        texts: The corpus.
        tokens: Their tokens.
        batch_size: Texts a forward pass.
    """
    units: defaultdict[tuple[str, str, str], list[int]] = defaultdict(list)
    for place, text in enumerate(texts):
        units[text.value, text.pair, text.language].append(place)
    in_order = sorted(units.values(), key=lambda unit: (-max(len(tokens[place]) for place in unit), unit[0]))
    groups: list[Group] = []
    waiting: list[list[int]] = []

    def close() -> None:
        pairs = sorted(((place, unit) for unit, places in enumerate(waiting) for place in places))
        pairs.sort(key=lambda row: (-len(tokens[row[0]]), row[0]))
        cuts = tuple((start, min(start + batch_size, len(pairs))) for start in range(0, len(pairs), batch_size))
        groups.append(Group(tuple(place for place, _ in pairs), tuple(unit for _, unit in pairs), cuts))
        waiting.clear()

    for unit in in_order:
        if waiting and sum(map(len, waiting)) + len(unit) > 2 * batch_size:
            close()
        waiting.append(unit)
    if waiting:
        close()
    return groups


def padded(rows: Sequence[Tokens]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows as one batch, padded on the right.

    Returns:
        Token ids, attention mask and part codes, ``[batch, seq]`` each. A pad's id does not matter: nothing attends
        to it, and its code is :data:`NO_PART`.
    """
    shape = (len(rows), max(map(len, rows)))
    ids, attention = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    codes = torch.full(shape, NO_PART, dtype=torch.int8)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens.ids)
        attention[row, : len(tokens)] = 1
        codes[row, : len(tokens)] = torch.tensor(tokens.codes, dtype=torch.int8)
    return ids, attention, codes
