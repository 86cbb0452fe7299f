"""What is wrong with a set of items: faults, giveaways, repetition; figures beside their limits."""

from __future__ import annotations

import importlib.util
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.progress import track

from cvoice_foundation.errors import CVoiceError
from cvoice_tasks.audit_schema import Fault, language_faults, read_leniently, twin_faults
from cvoice_tasks.items import Item, Split, items_path, twin_ids
from cvoice_tasks.values import LANGUAGES

# The one table of limits: the least and the greatest figure that passes. Kinds of faults are counted.
LIMITS: dict[str, tuple[float, float]] = {
    "schema": (0, 0),
    "ids": (0, 0),
    "pairing": (0, 0),
    "acts": (0, 0),
    "duplicates": (0, 0),
    "story_act_overlap": (0.45, 0.55),
    "last_sentence_overlap": (0.45, 0.55),
    "longer_option": (0.45, 0.55),
    "first_option": (0.45, 0.55),
    "story_option_products": (0.0, 0.58),
}
NEAR_DUPLICATE_SHARE = 0.3
_KINDS = ("schema", "ids", "pairing", "acts", "duplicates")
_TWIN_KINDS = ("pairing", "acts")


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the audit.

    Attributes:
        name: What was counted or measured.
        files: ``all``, a language, or split and language.
        figure: A count of faults, or a share between 0 and 1, or a length in words (zh: characters).
        limit: Least and greatest figure that passes; None if it is only reported.
        holds: Whether the figure is within its limit.
    """

    name: str
    files: str
    figure: float
    limit: tuple[float, float] | None
    holds: bool


@dataclass(frozen=True, slots=True)
class Audit:
    """Figures and the faults behind the counts.

    Attributes:
        figures: In the order of the table.
        faults: Each fault with its place.
    """

    figures: tuple[Figure, ...]
    faults: tuple[Fault, ...]

    @property
    def holds(self) -> bool:
        """Whether no limit is broken."""
        return all(figure.holds for figure in self.figures)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"holds": self.holds, "figures": [asdict(one) for one in self.figures]} | {
            "faults": [asdict(one) for one in self.faults]
        }


def _figure(name: str, files: str, figure: float) -> Figure:
    limit = LIMITS.get(name)
    # Shares are judged as printed, so that 0.55 in the table is 0.55 to the limit.
    rounded = round(float(figure), 3)
    return Figure(name, files, rounded, limit, limit is None or limit[0] <= rounded <= limit[1])


def _baselines(items: Sequence[Item], language: str, files: str) -> list[Figure]:
    from cvoice_tasks import audit_baselines as baselines

    measured = {
        "option_only": baselines.option_only(items, language),
        "option_only_untwinned": baselines.option_only_untwinned(items, language) if twin_ids(items) else None,
        "story_act_overlap": baselines.overlap(items, language),
        "last_sentence_overlap": baselines.last_sentence_overlap(items, language),
        "longer_option": baselines.longer_option(items, language),
        "first_option": baselines.first_option(items, language),
        "value_from_story": baselines.value_from_story(items, language),
    }
    return [_figure(name, files, figure) for name, figure in measured.items() if figure is not None]


def audit(folder: Path | None = None) -> Audit:
    """Audits a folder of items.

    Checks of twins are made where ids are twins', checks between languages where both are there.

    Args:
        folder: Holds ``SPLIT.LANGUAGE.jsonl``; the bundled items if None.

    Raises:
        CVoiceError: scikit-learn is missing, or the folder holds no items file, or one cannot be read.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise CVoiceError("the audit needs scikit-learn, which is not installed; pip install 'cvoice[audit]'")
    from cvoice_tasks.audit_baselines import products
    from cvoice_tasks.audit_make_up import make_up
    from cvoice_tasks.audit_overlap import near_duplicates

    paths = {
        (split, language): path
        for split in get_args(Split)
        for language in LANGUAGES
        if (path := items_path(split, language, folder)).is_file()
    }
    if not paths:
        raise CVoiceError(f"{folder}: no items in it; an audit takes a folder with evaluation.zh.jsonl or the like")
    files: dict[tuple[str, str], list[Item]] = {}
    faults: list[Fault] = []
    for key, path in paths.items():
        files[key], wrong = read_leniently(path)
        faults += wrong + twin_faults(files[key], path.name)
    faults += language_faults(files)
    languages = [language for language in LANGUAGES if any(key[1] == language for key in files)]
    for language in languages:
        stories = [item for key, items in files.items() if key[1] == language for item in items]
        faults += near_duplicates(stories, language, NEAR_DUPLICATE_SHARE)
    counts = Counter(fault.kind for fault in faults)
    twins = any(twin_ids(items) for items in files.values()) or any(counts[kind] for kind in _TWIN_KINDS)
    figures = [_figure(kind, "all", counts[kind]) for kind in _KINDS if twins or kind not in _TWIN_KINDS]
    for (split, spoken), items in track(files.items(), "Audit", console=Console(stderr=True), transient=True):
        if not items:
            continue
        name = f"{split} {spoken}"
        figures += _baselines(items, spoken, name)
        train = files.get(("activation", spoken))
        if split == "evaluation" and train:
            figures.append(_figure("story_option_products", name, products(train, items, spoken)))
        figures += [_figure(key, name, value) for key, value in make_up(items, spoken).items()]
    return Audit(tuple(figures), tuple(faults))


def table(result: Audit) -> str:
    """The audit as text: the faults, then a Markdown table with a row a figure and a column a file.

    A figure that breaks its limit is marked NO.
    """
    lines = [f"{fault.kind}: {fault.where}: {fault.what}" for fault in result.faults]
    files = list(dict.fromkeys(one.files for one in result.figures))
    rows: defaultdict[str, dict[str, Figure]] = defaultdict(dict)
    for one in result.figures:
        rows[one.name][one.files] = one
    lines += [f"| figure | limit | {' | '.join(files)} |", f"|---|---|{'---|' * len(files)}"]
    for name, cells in rows.items():
        limit = LIMITS.get(name)
        told = [
            f"{cells[file].figure:g}{'' if cells[file].holds else ' NO'}" if file in cells else "" for file in files
        ]
        lines.append(f"| {name} | {f'{limit[0]:g} to {limit[1]:g}' if limit else ''} | {' | '.join(told)} |")
    broken = sum(not one.holds for one in result.figures)
    told_last = "1 figure breaks its limit." if broken == 1 else f"{broken} figures break their limits."
    lines += ["", told_last if broken else "Every limit holds."]
    return "\n".join(lines)
