"""Holds a candidate against a baseline: did a value regress, and what could have been seen?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.progress import track

from compare.baseline import METRIC, RunScores, paired_tasks
from compare.paired import ClusterDifferences, bootstrap_interval, cluster_differences
from compare.results import FAMILIES, Model
from compare.samples import Numbers, TaskScores, cluster_of
from compare.significance import holm, sign_flip_p, smallest_visible_drop
from cvoice_foundation.errors import CVoiceError
from cvoice_tasks.values import VALUE_KEYS

Verdict = Literal["regressed", "undecided", "held"]

OVERALL = "overall"


@dataclass(frozen=True, slots=True)
class Gate:
    """When a candidate fails.

    Attributes:
        max_drop: The drop in accuracy that is put up with, 0 to 1.
        alpha: Family-wise error over all comparisons, and one minus the level of one-sided bounds.
        strict: Whether what is undecided fails as well.
        recovery: The least share of the baseline's accuracy that the candidate must keep overall, or None.
        seed: Of all random draws.

    Raises:
        CVoiceError: A number is out of its range.
    """

    max_drop: float = 0.03
    alpha: float = 0.05
    strict: bool = False
    recovery: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop < 1:
            raise CVoiceError(f"max-drop is {self.max_drop}; it is a share, e.g. 0.03 for three points of accuracy")
        if not 0 < self.alpha < 0.5:
            raise CVoiceError(f"alpha is {self.alpha}; it lies between 0 and 0.5, usually 0.05")
        if self.recovery is not None and not 0 < self.recovery <= 1:
            raise CVoiceError(f"recovery is {self.recovery}; it is a share of the baseline, e.g. 0.97")


@dataclass(frozen=True, slots=True)
class Flip:
    """An item whose accuracy, over its option orders, is not what it was."""

    family: str
    language: str
    value: str
    item: str
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One value, or all together, in one way of reading a choice.

    Attributes:
        family: letters, cloze, gen, recog or likert.
        value: Key of the value, or ``overall``.
        languages: Those that the run holds, pooled within clusters.
        documents: Paired documents.
        clusters: Twin pair numbers.
        changed: Clusters whose sum changed.
        baseline: Accuracy.
        candidate: Accuracy.
        difference: Candidate minus baseline.
        low: Lower end of the two-sided interval at 1 − alpha.
        high: Upper end.
        method: How the interval was made.
        p: One-sided sign-flip p of a drop.
        p_holm: The same, Holm-adjusted over all comparisons.
        largest_drop: One-sided upper bound of the drop at 1 − alpha.
        visible_drop: The drop that would have failed with 80 % power; None if no drop would have.
        recovery: Candidate over baseline; None where the baseline is 0.
        recovery_low: One-sided lower bound at 1 − alpha, the baseline's accuracy taken as known.
        recovery_high: One-sided upper bound.
        verdict: regressed, undecided (a drop larger than allowed is not excluded) or held.
    """

    family: str
    value: str
    languages: tuple[str, ...]
    documents: int
    clusters: int
    changed: int
    baseline: float
    candidate: float
    difference: float
    low: float
    high: float
    method: str
    p: float
    p_holm: float
    largest_drop: float
    visible_drop: float | None
    recovery: float | None
    recovery_low: float | None
    recovery_high: float | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of a check.

    Attributes:
        gate: What was asked for.
        baseline: Model.
        candidate: Model.
        comparisons: Overall first, then the values, a family after the other.
        flips: Items that fell or rose, falls first.
        remarks: What differs in the settings and may move scores a little.
        items_sha256: Hash of the items a task.
    """

    gate: Gate
    baseline: Model
    candidate: Model
    comparisons: tuple[Comparison, ...]
    flips: tuple[Flip, ...]
    remarks: tuple[str, ...]
    items_sha256: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether nothing regressed and, with ``strict``, nothing is undecided."""
        bad = ("regressed", "undecided") if self.gate.strict else ("regressed",)
        return not any(comparison.verdict in bad for comparison in self.comparisons)


def check(baseline: RunScores, candidate: RunScores, gate: Gate) -> Check:
    """Compares two runs document by document, clustered by twin pair.

    A comparison has regressed if its drop is larger than ``gate.max_drop`` and the one-sided sign-flip test,
    Holm-adjusted over all comparisons, finds a drop. With ``gate.recovery`` the overall comparisons have also
    regressed if the upper bound of candidate over baseline lies under it.

    Args:
        baseline: Scores.
        candidate: Scores over the same items in the same settings.
        gate: When it fails.

    Returns:
        Comparisons with their verdicts.

    Raises:
        CVoiceError: The runs cannot be compared.
    """
    pairs, notes = paired_tasks(baseline, candidate)
    parts = list(_parts(pairs))
    measured = [
        _measure(part, gate, len(parts))
        for part in track(parts, "comparing", console=Console(stderr=True), transient=True)
    ]
    adjusted = holm([p for *_, p in measured])
    comparisons = tuple(
        _comparison(part, d, p, float(p_holm), visible, gate)
        for part, (d, visible, p), p_holm in zip(parts, measured, adjusted, strict=True)
    )
    return Check(
        gate,
        baseline.model,
        candidate.model,
        comparisons,
        tuple(_flips(pairs)),
        tuple(notes),
        {left.name: left.items_sha256 for left, _ in pairs},
    )


@dataclass(frozen=True, slots=True)
class _Part:
    family: str
    value: str
    whole: bool
    languages: tuple[str, ...]
    before: Numbers
    after: Numbers


def _parts(pairs: Sequence[tuple[TaskScores, TaskScores]]) -> Iterable[_Part]:
    """Overall and every value of each family; overall is left out where there is one value."""
    for family in FAMILIES:
        of_family = [pair for pair in pairs if pair[0].family == family]
        found = {left.value for left, _ in of_family}
        values = sorted(found, key=lambda value: (VALUE_KEYS.index(value) if value in VALUE_KEYS else 99, value))
        for value in ([OVERALL] if len(values) > 1 else []) + values:
            chosen = [pair for pair in of_family if value in (OVERALL, pair[0].value)]
            before: Numbers = {}
            after: Numbers = {}
            for left, right in chosen:
                before |= left.numbers[METRIC]
                after |= right.numbers[METRIC]
            languages = tuple(sorted({left.language for left, _ in chosen}))
            yield _Part(family, value, len(chosen) == len(of_family), languages, before, after)


def _measure(part: _Part, gate: Gate, comparisons: int) -> tuple[ClusterDifferences, float, float]:
    """Differences, the drop that could have been seen beside so many other comparisons, and the one-sided p."""
    d = cluster_differences(part.before, part.after, cluster_of)
    visible = smallest_visible_drop(d, gate.alpha / comparisons, beyond=gate.max_drop, seed=gate.seed)
    return d, visible, sign_flip_p(d, seed=gate.seed, alternative="drop")


def _comparison(part: _Part, d: ClusterDifferences, p: float, p_holm: float, visible: float, gate: Gate) -> Comparison:
    before = math.fsum(part.before.values()) / d.documents
    after = math.fsum(part.after.values()) / d.documents
    interval = bootstrap_interval(d, level=1 - gate.alpha, seed=gate.seed)
    bounds = bootstrap_interval(d, level=1 - 2 * gate.alpha, seed=gate.seed)
    recovery = low = high = None
    if before > 0:
        recovery, low, high = after / before, max(0.0, 1 + bounds.low / before), 1 + bounds.high / before
    kept = gate.recovery if part.whole else None
    fell = -d.estimate > gate.max_drop and p_holm <= gate.alpha
    lost = kept is not None and high is not None and high < kept
    open_drop = -bounds.low >= gate.max_drop
    open_recovery = kept is not None and (low is None or low < kept)
    verdict: Verdict = "regressed" if fell or lost else "undecided" if open_drop or open_recovery else "held"
    return Comparison(
        family=part.family,
        value=part.value,
        languages=part.languages,
        documents=d.documents,
        clusters=len(d.clusters),
        changed=d.changed,
        baseline=before,
        candidate=after,
        difference=d.estimate,
        low=interval.low,
        high=interval.high,
        method=interval.method,
        p=p,
        p_holm=p_holm,
        largest_drop=-bounds.low,
        visible_drop=visible if math.isfinite(visible) else None,
        recovery=recovery,
        recovery_low=low,
        recovery_high=high,
        verdict=verdict,
    )


def _flips(pairs: Sequence[tuple[TaskScores, TaskScores]]) -> list[Flip]:
    flips = []
    for left, right in pairs:
        orders: dict[str, list[tuple[float, float]]] = {}
        for key, before in left.numbers[METRIC].items():
            orders.setdefault(key[3], []).append((before, right.numbers[METRIC][key]))
        for item, both in orders.items():
            before, after = (sum(side) / len(both) for side in zip(*both, strict=True))
            if before != after:
                flips.append(Flip(left.family, left.language, left.value, item, before, after))
    return sorted(flips, key=lambda flip: (flip.after - flip.before, flip.family, flip.item, flip.language))
