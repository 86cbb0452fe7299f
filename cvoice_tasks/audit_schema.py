"""Faults of the single line and of twins: shape, ids, pairing, acts that are not changed over."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cvoice_foundation.errors import CVoiceError
from cvoice_tasks.items import Item, is_twin_id, item_from_line, pair_of


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with the items.

    Attributes:
        kind: ``schema``, ``ids``, ``pairing``, ``acts`` or ``duplicates``.
        where: File and line, or ids.
        what: What is wrong, in a few words.
    """

    kind: str
    where: str
    what: str


def read_leniently(path: Path) -> tuple[list[Item], list[Fault]]:
    """Reads an items file and goes on after a wrong line.

    Args:
        path: JSON Lines, one item a line.

    Returns:
        The items that can be read, without those that repeat an id, and the faults of the others.

    Raises:
        CVoiceError: The file cannot be read or is not UTF-8.
    """
    items: dict[str, Item] = {}
    faults: list[Fault] = []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise CVoiceError(f"{path}: cannot read this items file: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise CVoiceError(f"{path}: not UTF-8 text; an items file is JSON Lines in UTF-8") from None
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        where = f"{path.name}, line {number}"
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if not isinstance(line, dict):
            faults.append(Fault("schema", where, "not a JSON object"))
            continue
        try:
            item = item_from_line(line, path, number)
        except CVoiceError as error:
            faults.append(Fault("schema", where, str(error).partition(": ")[2]))
            continue
        if item.id in items:
            faults.append(Fault("ids", where, f"the id {item.id} stands twice"))
            continue
        items[item.id] = item
    if not items and not faults:
        faults.append(Fault("schema", path.name, "no items in it"))
    return list(items.values()), faults


def twin_faults(items: Iterable[Item], where: str) -> list[Fault]:
    """Pairs that are not two stories of one value with the same two acts changed over.

    Items whose id has no twin letter are left out: they are no twins.

    Args:
        items: Items of one split and language.
        where: What to call the file.
    """
    pairs: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        if is_twin_id(item.id):
            pairs[pair_of(item.id)].append(item)
    faults = []
    for pair, twins in pairs.items():
        place = f"{where}, {pair}"
        if len(twins) != 2:
            faults.append(Fault("pairing", place, f"{twins[0].id} has no twin"))
            continue
        first, second = twins
        if first.value != second.value:
            faults.append(Fault("pairing", place, f"twins of two values: {first.value} and {second.value}"))
        if (first.aligned, first.violating) != (second.violating, second.aligned):
            faults.append(Fault("acts", place, "the twins' two acts are not the same two, changed over"))
        if first.story == second.story:
            faults.append(Fault("pairing", place, "the twins tell one story"))
    return faults


def language_faults(files: Mapping[tuple[str, str], list[Item]]) -> list[Fault]:
    """Ids that stand in one language of a split and not in the other, with another value, or in two splits.

    Args:
        files: Items by split and language.
    """
    faults = []
    for split in {split for split, _ in files}:
        if (split, "zh") not in files or (split, "en") not in files:
            continue
        zh, en = ({item.id: item.value for item in files[split, language]} for language in ("zh", "en"))
        faults += [Fault("pairing", f"{split}, {one}", "stands in one language only") for one in sorted(zh.keys() ^ en)]
        faults += [
            Fault("pairing", f"{split}, {one}", f"is {zh[one]} in zh and {en[one]} in en")
            for one in sorted(zh.keys() & en)
            if zh[one] != en[one]
        ]
    for language in {language for _, language in files}:
        counts = Counter(item.id for (_, other), items in files.items() if other == language for item in items)
        faults += [
            Fault("ids", f"{language}, {one}", "stands in more than one split")
            for one, count in sorted(counts.items())
            if count > 1
        ]
    return faults
