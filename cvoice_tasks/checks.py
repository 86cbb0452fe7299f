"""What blind readers said of the items: ``checks.*.jsonl``, one reading of one text a line, and its agreement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from cvoice_foundation.errors import CVoiceError
from cvoice_foundation.files import read_json_lines
from cvoice_tasks.annotate_score import cohen_kappa
from cvoice_tasks.values import LANGUAGES, VALUE_KEYS

SPLITS = ("evaluation", "activation", "fewshot")
OUTCOMES = ("kept", "corrected", "mended", "dropped", "spare")


@dataclass(frozen=True, slots=True)
class Reading:
    """One reader's answer to one text.

    Attributes:
        id: The item's, with its twin letter.
        language: ``zh`` or ``en``.
        split: The item's.
        reader: A name of the reader.
        reading: 1 for the first blind answer that the text ever had, 2 for the next, and so on.
        act_agrees: Whether the reader's act is the writer's.
        value: The value that the reader put first.
        second: The second one; empty where none was given.
        sure: 1 (a coin's toss) to 5; None where it was not asked.
        odd: A remark; mostly empty.
        outcome: ``kept``; ``corrected`` (its language, after this answer); ``mended`` (changed since this answer, or
            another one to its pair, disagreed); ``dropped``; ``spare`` (sound, not used).
        selects: Whether the answer could decide about the item; False for the second readers.
    """

    id: str
    language: str
    split: str
    reader: str
    reading: int
    act_agrees: bool
    value: str
    second: str = ""
    sure: int | None = None
    odd: str = ""
    outcome: str = "kept"
    selects: bool = True

    @property
    def true_value(self) -> str:
        """The writer's value."""
        return self.id.rpartition("-")[0]

    @property
    def act(self) -> str:
        """The story in which the reader's act upholds the value: the twin letter, or the other one."""
        letter = self.id[-1]
        return letter if self.act_agrees else "ab".replace(letter, "")


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far readings agree with what they are held against.

    Attributes:
        name: Which readings.
        language: ``zh`` or ``en``.
        against: ``writers``, or ``first readers``.
        texts: Read.
        act: Texts on whose act both agree.
        act_kappa: Cohen's kappa of it; None where there is one label only.
        value: Texts whose value both put first.
        value_kappa: Cohen's kappa of it.
        first_or_second: Texts whose written value is the reader's first or second; None between readers.
        outcomes: Texts by what became of them after the first answer.
    """

    name: str
    language: str
    against: str
    texts: int
    act: int
    act_kappa: float | None
    value: int
    value_kappa: float | None
    first_or_second: int | None
    outcomes: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def read_checks(folder: Path | None = None) -> list[Reading]:
    """Reads every ``checks.*.jsonl`` of a folder.

    Args:
        folder: The bundled one if None.

    Raises:
        CVoiceError: There is none, or a line is not a reading (with its number).
    """
    folder = folder or Path(str(resources.files("cvoice_tasks"))) / "data"
    paths = sorted(folder.glob("checks.*.jsonl"))
    if not paths:
        raise CVoiceError(f"{folder}: no checks.*.jsonl in it; blind readers' answers lie beside the items they are of")
    found = []
    for path in paths:
        for number, line in read_json_lines(path, "checks file"):
            try:
                reading = Reading(**line)
            except TypeError as error:
                raise CVoiceError(f"{path}, line {number}: not a reading ({error})") from None
            wrong = [
                name
                for name, there in (
                    ("id", reading.true_value in VALUE_KEYS and reading.id[-1:] in ("a", "b")),
                    ("language", reading.language in LANGUAGES),
                    ("split", reading.split in SPLITS),
                    ("value", reading.value in VALUE_KEYS),
                    ("outcome", reading.outcome in OUTCOMES),
                    ("act_agrees", isinstance(reading.act_agrees, bool)),
                )
                if not there
            ]
            if wrong:
                raise CVoiceError(f"{path}, line {number}: not a reading; wrong: {', '.join(wrong)}")
            found.append(reading)
    return found


def agreements(readings: Sequence[Reading]) -> list[Agreement]:
    """First answers against the writers, by split and language; second readers against both.

    Agreement is that of the first blind answer to every text written, before anything was changed or dropped: on what
    was kept in the end it would be 1 by construction.

    Args:
        readings: From :func:`read_checks`.
    """
    firsts = [one for one in readings if one.selects and one.reading == 1]
    found = []
    for split in SPLITS:
        for language in LANGUAGES:
            mine = [one for one in firsts if (one.split, one.language) == (split, language)]
            if mine:
                found.append(_with_writers(split, language, mine))
    of_text = {(one.id, one.language): one for one in firsts}
    for language in LANGUAGES:
        seconds = [one for one in readings if not one.selects and one.language == language]
        if seconds:
            found.append(_with_writers("second readers", language, seconds))
        pairs = [(one, of_text[one.id, language]) for one in seconds if (one.id, language) in of_text]
        if pairs:
            acts, values = [(a.act, b.act) for a, b in pairs], [(a.value, b.value) for a, b in pairs]
            found.append(_agreement("second readers", language, "first readers", acts, values, None, {}))
    return found


def _with_writers(name: str, language: str, readings: Sequence[Reading]) -> Agreement:
    hits = sum(one.true_value in (one.value, one.second) for one in readings)
    outcomes = Counter(one.outcome for one in readings)
    return _agreement(
        name,
        language,
        "writers",
        [(one.id[-1], one.act) for one in readings],
        [(one.true_value, one.value) for one in readings],
        hits,
        {outcome: outcomes[outcome] for outcome in OUTCOMES if outcomes[outcome]},
    )


def _agreement(
    name: str,
    language: str,
    against: str,
    acts: Sequence[tuple[str, str]],
    values: Sequence[tuple[str, str]],
    first_or_second: int | None,
    outcomes: dict[str, int],
) -> Agreement:
    return Agreement(
        name,
        language,
        against,
        len(acts),
        sum(one == other for one, other in acts),
        cohen_kappa(acts),
        sum(one == other for one, other in values),
        cohen_kappa(values),
        first_or_second,
        outcomes,
    )


def table(found: Iterable[Agreement]) -> str:
    """As Markdown."""
    lines = [
        "| readings | language | against | texts | act | kappa | value first | kappa | first or second | outcome |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]

    def told(number: float | None) -> str:
        return "–" if number is None else f"{number:.4f}"

    for one in found:
        outcome = ", ".join(f"{count} {name}" for name, count in one.outcomes.items()) or "–"
        second = "–" if one.first_or_second is None else str(one.first_or_second)
        lines.append(
            f"| {one.name} | {one.language} | {one.against} | {one.texts} | {one.act} | {told(one.act_kappa)} "
            f"| {one.value} | {told(one.value_kappa)} | {second} | {outcome} |"
        )
    return "\n".join(lines)
