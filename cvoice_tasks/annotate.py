"""Blind sheets for human annotators, and what they can open without being told the answer."""

from __future__ import annotations

import csv
import io
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from cvoice_foundation.errors import CVoiceError
from cvoice_foundation.files import output_folder, write_whole
from cvoice_tasks.items import Item, load_items, pair_of
from cvoice_tasks.values import VALUE_KEYS, Language

COLUMNS = ("number", "story", "question", "act_1", "act_2", "answer_act", "answer_value", "remark")
KEY_COLUMNS = ("number", "id", "act", "value")


def _safe(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@", "\t")) else text


def _csv(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(columns)
    writer.writerows([_safe(cell) for cell in row] for row in rows)
    return buffer.getvalue().encode("utf-8-sig")  # without the mark Excel reads Chinese as mojibake


def _two_sheets(items: Sequence[Item], source: random.Random) -> tuple[list[Item], list[Item]]:
    pairs: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        pairs[pair_of(item.id)].append(item)
    sheets: tuple[list[Item], list[Item]] = ([], [])
    for pair, stories in pairs.items():
        if len(stories) > 2:
            raise CVoiceError(f"{pair} has {len(stories)} stories; blind sheets take one or two stories a number")
        first = source.randrange(2)
        for place, story in enumerate(stories):
            sheets[(first + place) % 2].append(story)
    for sheet in sheets:
        source.shuffle(sheet)
    return sheets


def write_sheets(
    out: Path,
    language: Language,
    values: Sequence[str] = VALUE_KEYS,
    seed: int = 0,
    folder: Path | None = None,
) -> list[Path]:
    """Writes two blind sheets and the key of the evaluation items; twins never stand in one sheet.

    Args:
        out: Folder for ``sheet_1.LANGUAGE.csv``, ``sheet_2.LANGUAGE.csv`` and ``key.LANGUAGE.csv``.
        language: ``zh`` or ``en``.
        values: Keys of the values to take.
        seed: Of the order of stories and acts; the same seed gives the same bytes.
        folder: Items of the user's; the bundled ones if None.

    Returns:
        The files, the key last.

    Raises:
        CVoiceError: No such items, or the folder cannot be written to.
    """
    items = [item for item in load_items("evaluation", language, folder) if item.value in values]
    if not items:
        raise CVoiceError(f"no items of {', '.join(values)}; choose other --values")
    source = random.Random(seed)  # noqa: S311 - the order of a sheet is no secret
    output_folder(out)
    key, written = [], []
    for place, sheet in enumerate(_two_sheets(items, source), start=1):
        rows = []
        for row, item in enumerate(sheet, start=1):
            number = f"s{place}-{row}"  # 1-2 would become a date in a spreadsheet
            act = source.choice((1, 2))
            acts = (item.aligned, item.violating) if act == 1 else (item.violating, item.aligned)
            rows.append((number, item.story, item.question, *acts, "", "", ""))
            key.append((number, item.id, str(act), item.value))
        written.append(out / f"sheet_{place}.{language}.csv")
        write_whole(written[-1], _csv(COLUMNS, rows))
    written.append(out / f"key.{language}.csv")
    write_whole(written[-1], _csv(KEY_COLUMNS, key))
    return written
