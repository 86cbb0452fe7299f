"""Would other texts give the same neurons? Halves of the corpus, thresholds, values and languages compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from cvoice_foundation.errors import CVoiceError
from locate.select import Selection, SelectOptions, select
from locate.statistics import NeuronStatistics

TOP_RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
QUANTILES = (0.5, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Overlap:
    """How far two sets of neurons agree.

    Attributes:
        jaccard: |A ∩ B| / |A ∪ B|; None where both are empty.
        by_chance: The same for two random sets of these sizes: E|A ∩ B| = |A|·|B|/n put into the formula.
        sizes: |A| and |B|.
    """

    jaccard: float | None
    by_chance: float | None
    sizes: tuple[int, int]


@dataclass(frozen=True)
class Halves:
    """Split-half stability of a class.

    Attributes:
        name: The class.
        mean: Of the Jaccard index over the splits; None where nothing was selected.
        lowest: Of the splits.
        highest: Of the splits.
        by_chance: Mean of what chance gives.
        splits: How many splits there were.
    """

    name: str
    mean: float | None
    lowest: float | None
    highest: float | None
    by_chance: float | None
    splits: int

    def to_json(self) -> dict[str, Any]:
        """As JSON objects are made of."""
        return asdict(self)


def overlap(first: torch.Tensor, second: torch.Tensor) -> Overlap:
    """Compares two sets of neurons.

    Args:
        first: ``[neurons]``, bool.
        second: ``[neurons]``, bool.
    """
    a, b, both = int(first.sum()), int(second.sum()), int((first & second).sum())
    if not a and not b:
        return Overlap(None, None, (0, 0))
    chance = a * b / len(first)
    return Overlap(both / (a + b - both), chance / (a + b - chance), (a, b))


def halves(statistics: NeuronStatistics, splits: int, seed: int) -> Iterator[tuple[list[int], list[int]]]:
    """Random halves of the folds that occur.

    Raises:
        CVoiceError: There are fewer than two folds.
    """
    folds = torch.tensor(statistics.folds)
    if len(folds) < 2:
        raise CVoiceError("all pairs lie in one fold, so the corpus cannot be halved; give more pairs")
    generator = torch.Generator().manual_seed(seed)
    for _ in range(splits):
        order = folds[torch.randperm(len(folds), generator=generator)].tolist()
        yield sorted(order[: len(order) // 2]), sorted(order[len(order) // 2 :])


def split_half(
    statistics: NeuronStatistics, options: SelectOptions, *, splits: int = 10, seed: int = 0
) -> tuple[Halves, ...]:
    """Selects on random halves of the corpus and compares.

    Args:
        statistics: What was recorded.
        options: The selection.
        splits: How many random halvings.
        seed: Of the halvings.

    Raises:
        CVoiceError: A half is too small for the method.
    """
    found: dict[str, list[Overlap]] = {}
    for first, second in halves(statistics, splits, seed):
        one, other = (select(statistics, options, folds=folds) for folds in (first, second))
        for name, a, b in zip(one.classes, one.selected, other.selected, strict=True):
            found.setdefault(name, []).append(overlap(a, b))
    return tuple(_summary(name, overlaps) for name, overlaps in found.items())


def _summary(name: str, overlaps: Sequence[Overlap]) -> Halves:
    indices = [o.jaccard for o in overlaps if o.jaccard is not None]
    chances = [o.by_chance for o in overlaps if o.by_chance is not None]
    if not indices:
        return Halves(name, None, None, None, None, len(overlaps))
    mean = sum(indices) / len(indices)
    return Halves(name, mean, min(indices), max(indices), sum(chances) / len(chances), len(overlaps))


def between_classes(selection: Selection) -> list[list[Overlap]]:
    """Overlap of every two classes."""
    return [[overlap(a, b) for b in selection.selected] for a in selection.selected]


def between_languages(statistics: NeuronStatistics, options: SelectOptions) -> dict[str, Overlap] | None:
    """Overlap, for each class, of what each of two languages gives alone; None where there is one language."""
    languages = sorted({cell.language for cell in statistics.cells})
    if len(languages) != 2:
        return None
    options = replace(options, language_bar=None)  # which needs both languages
    one, other = (select(statistics, options, languages=[language]) for language in languages)
    return {name: overlap(a, b) for name, a, b in zip(one.classes, one.selected, other.selected, strict=True)}


@dataclass(frozen=True)
class SweepPoint:
    """One setting of a threshold sweep.

    Attributes:
        top_rate: Share kept.
        quantile: ``filter_rate`` and ``bar_rate`` alike; None for methods without them.
        neurons: Neurons of each class.
        stability: Mean split-half Jaccard index over the classes; None where it cannot be told.
        by_chance: What chance gives.
    """

    top_rate: float
    quantile: float | None
    neurons: dict[str, int]
    stability: float | None
    by_chance: float | None

    def to_json(self) -> dict[str, Any]:
        """As JSON objects are made of."""
        return asdict(self)


def sweep(statistics: NeuronStatistics, options: SelectOptions, *, splits: int = 3, seed: int = 0) -> list[SweepPoint]:
    """Selects at other thresholds: how many neurons, and how stable.

    Args:
        statistics: What was recorded.
        options: The method; its thresholds are replaced.
        splits: Random halvings a setting.
        seed: Of the halvings.
    """
    quantiles: tuple[float | None, ...] = QUANTILES if options.method.startswith("vape") else (None,)
    points = []
    for top_rate in TOP_RATES:
        for rate in quantiles:
            chosen = replace(options.vape, top_rate=top_rate)
            if rate is not None:
                chosen = replace(chosen, filter_rate=rate, bar_rate=rate)
            setting = replace(options, vape=chosen)
            found = select(statistics, setting)
            neurons = dict(zip(found.classes, found.selected.sum(1).tolist(), strict=True))
            stable = split_half(statistics, setting, splits=splits, seed=seed)
            means = [half.mean for half in stable if half.mean is not None]
            chances = [half.by_chance for half in stable if half.by_chance is not None]
            points.append(
                SweepPoint(
                    top_rate,
                    rate,
                    neurons,
                    sum(means) / len(means) if means else None,
                    sum(chances) / len(chances) if chances else None,
                )
            )
    return points
