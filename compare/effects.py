"""What masks changed: masks x values, paired, with intervals, corrected p-values and ranks among random masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from compare.estimates import Estimate, between, estimate
from compare.paired import ClusterDifferences, cluster_differences, pooled
from compare.runs import Run
from compare.samples import LIMITS, cluster_of
from compare.significance import holm, mcnemar_exact, sign_flip_p

ALPHA = 0.05
FLIPS = 20_000


@dataclass(frozen=True, slots=True)
class Twins:
    """Pairs that were answered right throughout (`twin_acc`), in every language asked.

    Attributes:
        pairs: How many there are.
        lost: Right without the mask, not with it.
        won: Right with the mask, not without it.
        p: McNemar's exact test, two-sided; not corrected, and no part of what is claimed.
    """

    pairs: int
    lost: int
    won: int
    p: float


@dataclass(frozen=True, slots=True)
class Cell:
    """One mask's effect on one value.

    Attributes:
        mask: Name of the mask.
        value: The value asked about.
        family: Reading: ``letters`` for the choice, ``recog`` for recognition, ...
        acc: Effect on `acc`.
        p: Two-sided, by sign flips of whole pairs.
        p_holm: Corrected over all cells of this reading.
        rank: k of :attr:`of`: 1 if the effect is larger in magnitude than under every random mask. Never corrected.
        of: Random masks and this one; 1 where there are no controls.
        controls: Effects of the random masks that match this mask, on this value.
        claimed: p_holm <= 0.05 and rank / of <= 0.05.
        margin: Effect on `margin`, where the reading has one.
        baseline: `acc` without a mask.
        by_language: Effect on `acc` in each language.
        between_languages: Effect in zh minus effect in en, within items; None with one language.
        twins: Pairs that were answered right throughout, before and after; None where the items are no twins.
    """

    mask: str
    value: str
    family: str
    acc: Estimate
    p: float
    p_holm: float
    rank: int
    of: int
    controls: tuple[float, ...]
    claimed: bool
    margin: Estimate | None
    baseline: float
    by_language: Mapping[str, Estimate]
    between_languages: Estimate | None
    twins: Twins | None


@dataclass(frozen=True, slots=True)
class Specificity:
    """A mask's effect on its own value, less its mean effect on the others (of the letters tasks)."""

    mask: str
    own: Estimate
    difference: Estimate


@dataclass(frozen=True, slots=True)
class Recognition:
    """A mask's effect on choosing its own value's act, beside that on recognising it.

    Attributes:
        mask: Name of the mask, which is its value's; None for all of these masks together.
        choice: Effect on `acc` of the letters tasks.
        recognition: Effect on `acc` of the recognition tasks.
        difference: The first less the second, within pairs.
    """

    mask: str | None
    choice: Estimate
    recognition: Estimate
    difference: Estimate


@dataclass(frozen=True, slots=True)
class Ability:
    """A mask's effect on a task that asks about no value."""

    mask: str
    task: str
    effect: Estimate


def of_runs(
    baseline: Run, masked: Sequence[Run], controls: Mapping[str, Sequence[Run]], *, seed: int = 0
) -> tuple[list[Cell], list[Specificity], list[Ability]]:
    """Effects of every mask on every value that was asked about.

    Args:
        baseline: Without a mask.
        masked: One run a mask.
        controls: Name of a mask -> runs of random masks that match it.
        seed: Of intervals and tests.

    Returns:
        Cells, specificities (of masks named after a value, where other values were asked about), abilities.

    Raises:
        CVoiceError: The runs do not hold the same documents.
    """
    keys = baseline.numbers["acc"]
    families = dict.fromkeys(key[0] for key in keys)
    values = list(dict.fromkeys(key[2] for key in keys))
    cells: list[Cell] = []
    for family in families:
        raw = [
            _cell(baseline, run, controls.get(run.name, ()), family, value, seed)
            for run in masked
            for value in values
            if baseline.of_cell("acc", family, value)
        ]
        corrected = holm([cell.p for cell in raw])
        cells += [_claimed(cell, float(p)) for cell, p in zip(raw, corrected, strict=True)]
    specificities = [found for run in masked if (found := _specificity(baseline, run, values, seed)) is not None]
    abilities = [
        Ability(run.name, task, estimate(cluster_differences(before, run.others[task], lambda key: key[3]), seed, None))
        for run in masked
        for task, before in baseline.others.items()
        if before
    ]
    return cells, specificities, abilities


def _differences(
    baseline: Run, run: Run, metric: str, family: str, value: str, language: str | None = None
) -> ClusterDifferences | None:
    before, after = (
        {key: n for key, n in one.of_cell(metric, family, value).items() if language in (None, key[1])}
        for one in (baseline, run)
    )
    return cluster_differences(before, after, cluster_of) if before else None


def _cell(baseline: Run, run: Run, controls: Sequence[Run], family: str, value: str, seed: int) -> Cell:
    before = baseline.of_cell("acc", family, value)

    def on_acc(of: Run, language: str | None = None) -> ClusterDifferences:
        d = _differences(baseline, of, "acc", family, value, language)
        assert d is not None, "this cell was asked for"
        return d

    d = on_acc(run)
    margins = _differences(baseline, run, "margin", family, value)
    at_random = tuple(on_acc(control).estimate for control in controls)
    effect = estimate(d, seed)
    by_language = {language: on_acc(run, language) for language in dict.fromkeys(key[1] for key in before)}
    return Cell(
        mask=run.name,
        value=value,
        family=family,
        acc=effect,
        p=sign_flip_p(d, flips=FLIPS, seed=seed),
        p_holm=1.0,
        # A tie counts against the mask.
        rank=1 + sum(abs(other) >= abs(effect.difference) - 1e-12 for other in at_random),
        of=1 + len(at_random),
        controls=at_random,
        claimed=False,
        margin=None if margins is None else estimate(margins, seed, LIMITS["margin"]),
        baseline=sum(before.values()) / len(before),
        by_language={language: estimate(found, seed) for language, found in by_language.items()},
        between_languages=between(by_language["zh"], by_language["en"], seed)
        if set(by_language) == {"zh", "en"}
        else None,
        twins=_twins(baseline, run, family, value),
    )


def _twins(baseline: Run, run: Run, family: str, value: str) -> Twins | None:
    d = _differences(baseline, run, "twin_acc", family, value)
    if d is None:
        return None
    before, after = (_right_throughout(one, family, value) for one in (baseline, run))
    lost = sum(before[pair] and not after[pair] for pair in before)
    won = sum(after[pair] and not before[pair] for pair in before)
    return Twins(len(before), lost, won, mcnemar_exact(lost, won))


def _right_throughout(run: Run, family: str, value: str) -> dict[str, bool]:
    """Pair number -> whether its `twin_acc` is 1 in every language, so that a pair has one yes or no."""
    right: dict[str, bool] = {}
    for key, number in run.of_cell("twin_acc", family, value).items():
        right[cluster_of(key)] = right.get(cluster_of(key), True) and number == 1
    return right


def recognitions(baseline: Run, masked: Sequence[Run], *, seed: int = 0) -> list[Recognition]:
    """Effects on choice beside effects on recognition, of masks that are named after a value asked for in both ways.

    Args:
        baseline: Without a mask.
        masked: One run a mask.
        seed: Of the intervals.

    Returns:
        One a mask, and where there are several, one of all of them together.
    """
    both: list[tuple[str | None, ClusterDifferences, ClusterDifferences]] = []
    for run in masked:
        choice, recognition = (_differences(baseline, run, "acc", family, run.name) for family in ("letters", "recog"))
        if choice is not None and recognition is not None:
            both.append((run.name, choice, recognition))
    if len(both) > 1:
        both.append((None, pooled(one[1] for one in both), pooled(one[2] for one in both)))
    found = []
    for name, choice, recognition in both:
        difference = between(choice, recognition, seed)
        if difference is not None:
            found.append(Recognition(name, estimate(choice, seed), estimate(recognition, seed), difference))
    return found


def _claimed(cell: Cell, p_holm: float) -> Cell:
    passes = p_holm <= ALPHA and cell.of > 1 and cell.rank / cell.of <= ALPHA
    return replace(cell, p_holm=p_holm, claimed=passes)


def _specificity(baseline: Run, run: Run, values: Iterable[str], seed: int) -> Specificity | None:
    values = list(values)
    if run.name not in values or len(values) < 2:
        return None
    found = {value: _differences(baseline, run, "acc", "letters", value) for value in values}
    parts = {value: part for value, part in found.items() if part is not None}
    if len(parts) < len(values):
        return None
    own = parts[run.name]
    others = [part for value, part in parts.items() if value != run.name]
    total = own.documents + sum(part.documents for part in others)
    # Weighted so that the mean over all documents is the own value's mean less the mean of the others' means.
    scaled = [(own, total / own.documents)] + [(part, -total / (len(others) * part.documents)) for part in others]
    joined = ClusterDifferences(
        tuple(f"{number}:{cluster}" for number, (part, _) in enumerate(scaled) for cluster in part.clusters),
        np.concatenate([part.sums * weight for part, weight in scaled]),
        np.concatenate([part.counts for part, _ in scaled]),
    )
    return Specificity(run.name, estimate(own, seed), estimate(joined, seed, None))
