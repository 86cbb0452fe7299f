"""What an item is: a story in which a value collides with something else that people want, and two acts that end it.

Items are written in twins: one pair of acts, two stories, ``...a`` and ``...b``; the act that upholds the value in
one story gives it up in the other, so that whoever ignores the story is right in exactly half of the cases.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from cvoice_foundation.errors import CVoiceError, suggestion
from cvoice_foundation.files import read_json_lines
from cvoice_tasks.values import LANGUAGES, VALUE_KEYS, Language

Split = Literal["evaluation", "activation", "fewshot"]

_TWIN_ID = re.compile(r"(?P<pair>.+-\d+)(?P<twin>[ab])")
_TEXT_FIELDS = ("id", "value", "story", "aligned", "violating")
_OPTIONAL_FIELDS = ("topic", "question", "rationale")


@dataclass(frozen=True, slots=True)
class Item:
    """One story with its two acts, in one language.

    Attributes:
        id: Unique in its file; the same in the other language. Twins end in ``a`` and ``b``.
        value: Key of one of the twelve values.
        story: The dilemma.
        aligned: The act that the value asks for.
        violating: The act that gives the value up.
        topic: A few words that name the story; empty if the file has none.
        question: What does the person do?; empty if the file has none.
        rationale: Why the aligned act expresses the value (activation split alone); else empty.
    """

    id: str
    value: str
    story: str
    aligned: str
    violating: str
    topic: str = ""
    question: str = ""
    rationale: str = ""


def pair_of(item_id: str) -> str:
    """The pair number of an item: its id without the twin letter.

    Stories, option orders and languages of one pair number are one cluster in every standard error.
    An id that is not a twin's is its own cluster.
    """
    match = _TWIN_ID.fullmatch(item_id)
    return match["pair"] if match else item_id


def is_twin_id(item_id: str) -> bool:
    """Whether an id is a twin's: a pair number with ``a`` or ``b``."""
    return _TWIN_ID.fullmatch(item_id) is not None


def item_from_line(line: dict[str, Any], path: Path, number: int) -> Item:
    """Checks one object of an items file.

    Args:
        line: The object.
        path: The file, for error messages.
        number: Its line, from 1, for error messages.

    Raises:
        CVoiceError: It is not an item.
    """
    for field in _TEXT_FIELDS:
        if not isinstance(line.get(field), str) or not line[field].strip():
            raise CVoiceError(
                f'{path}, line {number}: "{field}" is missing or empty; an item has {", ".join(_TEXT_FIELDS)}'
            )
    for field in _OPTIONAL_FIELDS:
        if not isinstance(line.get(field, ""), str):
            raise CVoiceError(f'{path}, line {number}: "{field}" is not text')
    if line["value"] not in VALUE_KEYS:
        raise CVoiceError(
            f"{path}, line {number}: there is no value {line['value']!r}{suggestion(line['value'], VALUE_KEYS)}"
        )
    return Item(**{field: line.get(field, "") for field in (*_TEXT_FIELDS, *_OPTIONAL_FIELDS)})


def read_items(path: Path) -> list[Item]:
    """Reads and checks an items file.

    Args:
        path: JSON Lines, one item a line.

    Returns:
        The items in the file's order.

    Raises:
        CVoiceError: The file cannot be read, holds no item, repeats an id, or a line is not an item (with its number).
    """
    items: dict[str, Item] = {}
    for number, line in read_json_lines(path, "items file"):
        item = item_from_line(line, path, number)
        if item.id in items:
            raise CVoiceError(f"{path}, line {number}: the id {item.id!r} stands twice; every item has its own")
        items[item.id] = item
    if not items:
        raise CVoiceError(f"{path}: no items in it; an items file has one JSON object a line")
    return list(items.values())


def items_path(split: Split, language: Language, folder: Path | None = None) -> Path:
    """Where the items of a split and language lie.

    Args:
        split: ``evaluation``, ``activation`` or ``fewshot``.
        language: ``zh`` or ``en``.
        folder: A folder with items of the user's; the bundled ones if None.
    """
    if folder is None:
        folder = Path(str(resources.files("cvoice_tasks"))) / "data"
    return folder / f"{split}.{language}.jsonl"


def load_items(split: Split, language: Language, folder: Path | None = None) -> list[Item]:
    """Items of a split and language, bundled or from a folder of the user's.

    Raises:
        CVoiceError: The folder is not there, does not hold that file, or the file is not right.
    """
    path = items_path(split, language, folder)
    if folder is not None and not folder.is_dir():
        raise CVoiceError(f"{folder}: no such folder; data_dir is a folder with {split}.zh.jsonl or {split}.en.jsonl")
    if not path.is_file():
        there = [language for language in LANGUAGES if items_path(split, language, folder).is_file()]
        have = f"; it has {split}.{there[0]}.jsonl, so use the {there[0]} tasks" if there else ""
        raise CVoiceError(f"{path.parent}: there is no {path.name} in it{have}")
    return read_items(path)


def twin_ids(items: Iterable[Item]) -> frozenset[str]:
    """Ids of the items that are true twins: both stories there, the two acts equal and changed over."""
    pairs: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        if _TWIN_ID.fullmatch(item.id):
            pairs[pair_of(item.id)].append(item)
    return frozenset(
        item.id
        for pair in pairs.values()
        if len(pair) == 2 and (pair[0].aligned, pair[0].violating) == (pair[1].violating, pair[1].aligned)
        for item in pair
    )


def of_value(items: Sequence[Item], value: str) -> list[Item]:
    """The items of one value, in their order."""
    return [item for item in items if item.value == value]
