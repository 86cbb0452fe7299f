"""Agreement of filled blind sheets: with the key, and of annotators with one another."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from cvoice_foundation.errors import CVoiceError
from cvoice_tasks.annotate import COLUMNS, KEY_COLUMNS
from cvoice_tasks.values import VALUES

_VALUES = {name.lower(): value.key for value in VALUES for name in (value.key, value.zh, value.en)}
_VALUES |= {value.key.replace("_", " "): value.key for value in VALUES}


@dataclass(frozen=True, slots=True)
class Answer:
    """What an annotator said of a story.

    Attributes:
        act: 1 or 2.
        values: The value first at stake and, where it was given, the second.
    """

    act: int
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two readings of the same stories agree.

    Attributes:
        first: A sheet's name.
        second: Another's, or ``key``.
        stories: Answered in both.
        act: Share on whose act both agree.
        act_kappa: Cohen's kappa of it; None where both always said the same one thing.
        value: Share on whose first value both agree.
        value_kappa: Cohen's kappa of it.
        first_or_second: Share whose value of the key is the first or second guess; None between annotators.
    """

    first: str
    second: str
    stories: int
    act: float
    act_kappa: float | None
    value: float
    value_kappa: float | None
    first_or_second: float | None


@dataclass(frozen=True)
class Score:
    """All agreements, and what could not be read.

    Attributes:
        agreements: Each sheet with the key, then each two sheets that share stories.
        unread: Sheet, row and reason of every row that was filled and could not be read.
        empty: Sheet -> rows that were left empty.
    """

    agreements: tuple[Agreement, ...]
    unread: tuple[str, ...]
    empty: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "agreements": [asdict(agreement) for agreement in self.agreements],
            "unread": list(self.unread),
            "empty": dict(self.empty),
        }


def score_sheets(key: Path, sheets: Sequence[Path]) -> Score:
    """Scores filled sheets.

    Args:
        key: ``key.LANGUAGE.csv``, as ``cvoice annotate sheets`` wrote it.
        sheets: Filled copies of its sheets; several of one sheet are several annotators.

    Raises:
        CVoiceError: A file cannot be read, is no sheet or no key, holds a number that the key does not, or a name
            stands twice.
    """
    truth: dict[str, Answer] = {}
    for row, line in _rows(key, KEY_COLUMNS, "key file"):
        act = line["act"].strip()
        if act not in ("1", "2") or line["value"] not in _VALUES:
            raise CVoiceError(f"{key}, row {row}: not a key; `cvoice annotate sheets` writes it")
        truth[line["number"]] = Answer(int(act), (line["value"],))
    filled: dict[str, dict[str, Answer]] = {}
    unread: list[str] = []
    empty: dict[str, int] = {}
    for sheet in sheets:
        if str(sheet) in filled:
            raise CVoiceError(f"{sheet} is given twice")
        filled[str(sheet)], empty[str(sheet)] = _read_sheet(sheet, truth, unread)
    agreements = [_agreement(name, "key", answers, truth, True) for name, answers in filled.items() if answers]
    for (one, first), (other, second) in combinations(filled.items(), 2):
        if first.keys() & second.keys():
            agreements.append(_agreement(one, other, first, second, False))
    return Score(tuple(agreements), tuple(unread), empty)


def _rows(path: Path, columns: Sequence[str], what: str) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames is None or not set(columns) <= set(reader.fieldnames):
                raise CVoiceError(f"{path}: not a {what}; it has the columns {', '.join(columns)}")
            return [(row, {name: line[name] or "" for name in columns}) for row, line in enumerate(reader, start=2)]
    except OSError as error:
        raise CVoiceError(f"{path}: cannot read this {what}: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise CVoiceError(f"{path}: not CSV in UTF-8 ({error}); save the sheet as “CSV UTF-8”") from None


def _read_sheet(path: Path, truth: Mapping[str, Answer], unread: list[str]) -> tuple[dict[str, Answer], int]:
    answers: dict[str, Answer] = {}
    empty = 0
    for row, line in _rows(path, COLUMNS, "sheet"):
        number = line["number"]
        if number not in truth:
            raise CVoiceError(f"{path}, row {row}: the key has no number {number!r}; give the key of this sheet")
        if not line["answer_act"].strip() and not line["answer_value"].strip():
            empty += 1
            continue
        try:
            answers[number] = read_answer(line["answer_act"], line["answer_value"])
        except ValueError as error:
            unread.append(f"{path}, row {row} ({number}): {error}")
    return answers, empty


def read_answer(act: str, value: str) -> Answer:
    """Reads the two cells of an answer.

    Args:
        act: ``1`` or ``2``; a spreadsheet may have made ``1.0`` of it.
        value: A value's key or Chinese name; a second guess after a comma or semicolon.

    Raises:
        ValueError: One of them cannot be read; the message says which, and what was expected.
    """
    told = act.strip().removesuffix(".0").translate(str.maketrans("１２", "12"))
    if told not in ("1", "2"):
        raise ValueError(f"the act is {act.strip()!r}, and should be 1 or 2")
    for mark in "，、；;/":
        value = value.replace(mark, ",")
    names = [name.strip().lower() for name in value.split(",") if name.strip()]
    if not names:
        raise ValueError("the value is missing")
    for name in names:
        if name not in _VALUES:
            raise ValueError(f"there is no value {name!r}; keys and Chinese names are read")
    return Answer(int(told), tuple(_VALUES[name] for name in names[:2]))


def _agreement(
    first: str, second: str, one: Mapping[str, Answer], other: Mapping[str, Answer], is_key: bool
) -> Agreement:
    both = [(one[number], other[number]) for number in one if number in other]
    acts = [(a.act, b.act) for a, b in both]
    values = [(a.values[0], b.values[0]) for a, b in both]
    hits = sum(b.values[0] in a.values for a, b in both)
    return Agreement(
        first,
        second,
        len(both),
        sum(a == b for a, b in acts) / len(both),
        cohen_kappa(acts),
        sum(a == b for a, b in values) / len(both),
        cohen_kappa(values),
        hits / len(both) if is_key else None,
    )


def cohen_kappa(pairs: Sequence[tuple[Any, Any]]) -> float | None:
    """Cohen's kappa; None where both sides have said one and the same thing throughout, for which it is 0/0."""
    if len({label for pair in pairs for label in pair}) < 2:
        return None
    if importlib.util.find_spec("sklearn") is None:
        raise CVoiceError("cvoice annotate score needs scikit-learn: pip install 'cvoice[audit]'")
    from sklearn.metrics import cohen_kappa_score

    return float(cohen_kappa_score([a for a, _ in pairs], [b for _, b in pairs]))


def table(score: Score) -> str:
    """As Markdown, with what was left out below."""
    lines = [
        "| sheet | with | stories | act | kappa | value | kappa | first or second guess |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def told(number: float | None) -> str:
        return "–" if number is None else f"{number:.3f}"

    for a in score.agreements:
        numbers = (a.act, a.act_kappa, a.value, a.value_kappa, a.first_or_second)
        lines.append(f"| {a.first} | {a.second} | {a.stories} | {' | '.join(told(number) for number in numbers)} |")
    lines += [f"\nnot read: {reason}" for reason in score.unread]
    lines += [f"\nempty: {count} rows of {name}" for name, count in score.empty.items() if count]
    return "\n".join(lines)
