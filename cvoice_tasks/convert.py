"""Other people's dilemmas as items: workbooks of the public predecessors, and tables with named columns."""

from __future__ import annotations

import csv
import importlib.util
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvoice_foundation.errors import CVoiceError, suggestion
from cvoice_foundation.files import dump_json_lines, output_folder, read_json_lines, write_whole
from cvoice_tasks.items import Split, items_path
from cvoice_tasks.values import VALUES, Language

FIELDS = ("value", "story", "aligned", "violating", "topic", "question", "rationale")
_NEEDED = ("story", "aligned", "violating")
# Column names of the two public layouts, in which the first act is the aligned one, and our own.
_KNOWN: dict[str, str] = {
    "context": "story",
    "action1": "aligned",
    "action2": "violating",
    "type": "topic",
    "决策困境": "story",
    "选择a": "aligned",
    "选择b": "violating",
    "冲突类型": "topic",
} | {field: field for field in FIELDS}
_NAMES = {name.lower(): value.key for value in VALUES for name in (value.key, value.zh, value.en)}
_LETTER = re.compile(r"^\s*(?:选择|选项|option|choice)?\s*[AB]\s*[.．、:：)）](?![A-Z]\.)\s*")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class Converted:
    """What came of it.

    Attributes:
        path: The items file.
        items: How many of each value.
        unread: File, sheet, row and reason of every row that was left out.
    """

    path: Path
    items: Mapping[str, int]
    unread: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of a table: where it stands, the value that its sheet or file is named after, and its cells."""

    place: str
    named: str | None
    cells: Mapping[str, str]


def convert(
    files: Sequence[Path],
    out: Path,
    *,
    language: Language = "zh",
    split: Split = "evaluation",
    columns: Mapping[str, str] | None = None,
    value: str | None = None,
) -> Converted:
    """Converts tables into an items file that every task and `cvoice locate` take.

    A row's value is that of its own column, else ``value``, else the name of its sheet, else that of its file, each a
    key, a Chinese or an English name. Letters in front of the acts ("A.") are taken off.

    Args:
        files: ``.xlsx``, ``.csv`` or ``.jsonl``.
        out: Folder of the items file; one that is there is refused.
        language: Of the texts.
        split: That the items become.
        columns: Field -> column, where a table names them otherwise; fields are :data:`FIELDS`.
        value: Of rows that name none.

    Returns:
        Counts, and the rows that could not be read.

    Raises:
        CVoiceError: A file cannot be read, lacks a column, or no row of all could be read.
    """
    columns = {} if columns is None else columns
    for field in columns:
        if field not in FIELDS:
            raise CVoiceError(f"--columns: there is no field {field!r}{suggestion(field, FIELDS)}")
    if value is not None and value.lower() not in _NAMES:
        raise CVoiceError(f"--value: there is no value {value!r}{suggestion(value, _NAMES)}")
    path = items_path(split, language, out)
    if path.exists():
        raise CVoiceError(f"{path} is there already; choose another --out, so that no items are overwritten")
    lines: list[dict[str, Any]] = []
    unread: list[str] = []
    numbers: Counter[str] = Counter()
    for file in files:
        for row in _rows(file, columns):
            try:
                line = _item(row, value)
            except ValueError as error:
                unread.append(f"{row.place}: {error}")
                continue
            numbers[line["value"]] += 1
            lines.append({"id": f"{line['value']}-{numbers[line['value']]:04d}", **line})
    if not lines:
        first = f"; the first: {unread[0]}" if unread else ""
        raise CVoiceError(f"no row of {', '.join(map(str, files))} could be read{first}")
    output_folder(out)
    write_whole(path, dump_json_lines(lines))
    return Converted(path, dict(numbers), tuple(unread))


def _rows(file: Path, columns: Mapping[str, str]) -> Iterator[_Row]:
    kind = file.suffix.lower()
    if kind == ".xlsx":
        yield from _workbook_rows(file, columns)
    elif kind == ".csv":
        yield from _csv_rows(file, columns)
    elif kind in (".jsonl", ".json"):
        for number, line in read_json_lines(file, "table"):
            # Each line of JSON names its own fields, so that what one lacks is the line's fault and not the table's.
            names = _fields(list(line), columns)
            cells = {field: str(line[name]) for name, field in names.items() if line[name] is not None}
            yield _Row(f"{file}, line {number}", _named(file.stem), cells)
    else:
        raise CVoiceError(f"{file}: tables are read from .xlsx, .csv and .jsonl")


def _fields(header: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Column -> field."""
    by_column = {column: field for field, column in columns.items()}
    found: dict[str, str] = {}
    for name in header:
        field = by_column.get(name) or _KNOWN.get(_SPACE.sub("", name).lower())
        # A column that was named on the command line goes before one that happens to be called like the field.
        if field is not None and (field not in columns or columns[field] == name):
            found[name] = field
    return found


def _table(
    place: str, what: str, named: str | None, rows: Iterator[tuple[int, Sequence[str]]], columns: Mapping[str, str]
) -> Iterator[_Row]:
    _, header = next(rows, (0, ()))
    fields = _fields(header, columns)
    for field in _NEEDED:
        if field not in fields.values():
            raise CVoiceError(
                f"{place}: there is no column for {field!r} among {', '.join(filter(None, header)) or 'none'}; "
                f"name it with --columns {field}=COLUMN"
            )
    for missing in [column for column in columns.values() if column not in header]:
        raise CVoiceError(f"{place}: there is no column {missing!r}; it has {', '.join(filter(None, header))}")
    for number, cells in rows:
        if any(cell.strip() for cell in cells):
            of_field = {fields[name]: cell for name, cell in zip(header, cells, strict=False) if name in fields}
            yield _Row(f"{place}, {what} {number}", named, of_field)


def _csv_rows(file: Path, columns: Mapping[str, str]) -> Iterator[_Row]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            yield from _table(str(file), "row", _named(file.stem), enumerate(csv.reader(opened), start=1), columns)
    except OSError as error:
        raise CVoiceError(f"{file}: cannot read this table: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise CVoiceError(f"{file}: not CSV in UTF-8 ({error}); save it as “CSV UTF-8”") from None


def _workbook_rows(file: Path, columns: Mapping[str, str]) -> Iterator[_Row]:
    if importlib.util.find_spec("openpyxl") is None:
        raise CVoiceError(f"{file}: workbooks need openpyxl: pip install 'cvoice[convert]'")
    from openpyxl import load_workbook

    try:
        # Read-only: cells are streamed, formulas are not run, and what a formula last gave is read.
        book = load_workbook(file, read_only=True, data_only=True)
    except OSError as error:
        raise CVoiceError(f"{file}: cannot read this workbook: {error.strerror or error}") from None
    except Exception as error:  # openpyxl lets errors of zipfile, XML and its own through for damaged files
        raise CVoiceError(f"{file}: not an .xlsx workbook ({type(error).__name__}: {error})") from None
    try:
        for sheet in book.worksheets:
            rows = ((n, [_text(c) for c in cells]) for n, cells in enumerate(sheet.iter_rows(values_only=True), 1))
            filled = ((n, cells) for n, cells in rows if any(cells))
            first = next(filled, None)
            if first is None:
                continue
            named = _named(sheet.title) or _named(file.stem)
            yield from _table(f"{file}, sheet {sheet.title}", "row", named, _chain(first, filled), columns)
    finally:
        book.close()


def _chain(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell)


def _named(title: str) -> str | None:
    """The value that a sheet or file is named after: its whole name, or a name that stands in it alone."""
    if title.strip().lower() in _NAMES:
        return _NAMES[title.strip().lower()]
    found = {key for name, key in _NAMES.items() if name in title.lower()}
    return found.pop() if len(found) == 1 else None


def _item(row: _Row, value: str | None) -> dict[str, Any]:
    """A row as an item without its id.

    Raises:
        ValueError: It is none; the message says why.
    """
    cells = {field: _SPACE.sub(" ", text).strip() for field, text in row.cells.items()}
    told = cells.get("value") or value or row.named
    if not told:
        raise ValueError("it has no value; name the sheet or file after one, or give --value or a column for it")
    if told.lower() not in _NAMES:
        raise ValueError(f"there is no value {told!r}")
    for field in _NEEDED:
        if not cells.get(field):
            raise ValueError(f"{field!r} is empty")
    acts = {field: _LETTER.sub("", cells[field]) for field in ("aligned", "violating")}
    for field, text in acts.items():
        if not text:
            raise ValueError(f"{field!r} is a letter and nothing else")
    if acts["aligned"] == acts["violating"]:
        raise ValueError("both acts are the same")
    line = {"value": _NAMES[told.lower()], "story": cells["story"], **acts}
    return line | {field: cells[field] for field in ("topic", "question", "rationale") if cells.get(field)}
