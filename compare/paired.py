"""Differences of two runs over the same documents, clustered by twin pair number.

A pair's two stories, both option orders and both languages answer alike, so the pair number is what was sampled: every
interval draws pairs, every test turns the signs of whole pairs (Miller 2024, "Adding Error Bars to Evals").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cvoice_foundation.errors import CVoiceError

Floats = NDArray[np.float64]
Key = tuple[str, ...]
"""What names a document in both runs, e.g. (item id, language, order)."""

FEWEST_CHANGED = 10
"""With fewer clusters that changed, or that differ from the commonest change, the bootstrap covers too seldom."""


@dataclass(frozen=True, slots=True)
class ClusterDifferences:
    """Candidate minus baseline, summed over the documents of each cluster.

    Attributes:
        clusters: Their names, ascending.
        sums: Summed differences, float64 [clusters].
        counts: Documents, int64 [clusters].
    """

    clusters: tuple[str, ...]
    sums: Floats
    counts: NDArray[np.int64]

    @property
    def estimate(self) -> float:
        """Mean difference of a document."""
        return math.fsum(self.sums) / self.documents

    @property
    def documents(self) -> int:
        """How many documents there are in all."""
        return int(self.counts.sum())

    @property
    def changed(self) -> int:
        """How many clusters have a sum other than 0."""
        return int(np.count_nonzero(self.sums))


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval and the name of the method that made it."""

    low: float
    high: float
    method: str


def cluster_differences(
    baseline: Mapping[Key, float], candidate: Mapping[Key, float], cluster_of: Callable[[Key], str]
) -> ClusterDifferences:
    """Pairs two runs document by document.

    Args:
        baseline: A number for each document.
        candidate: A number for each of the same documents.
        cluster_of: The cluster of a document's key.

    Returns:
        Candidate minus baseline a cluster.

    Raises:
        CVoiceError: The documents are not the same, there are none, or a number is not finite.
    """
    for left, right, where in ((baseline, candidate, "candidate"), (candidate, baseline, "baseline")):
        missing = sorted(left.keys() - right.keys())
        if missing:
            raise CVoiceError(
                f"{len(missing)} of {len(left)} documents are not in the {where}, e.g. {' '.join(missing[0])}; "
                "paired statistics need the same items in both runs: use the same tasks, items and --limit"
            )
    if not baseline:
        raise CVoiceError("there are no documents to compare; check that both runs hold the same task")
    differences: dict[str, list[float]] = {}
    for key in sorted(baseline):
        difference = candidate[key] - baseline[key]
        if not math.isfinite(difference):
            raise CVoiceError(f"document {' '.join(key)} has no finite number in both runs; run it again")
        differences.setdefault(cluster_of(key), []).append(difference)
    clusters = tuple(sorted(differences))
    return ClusterDifferences(
        clusters,
        np.array([math.fsum(differences[cluster]) for cluster in clusters], dtype=np.float64),
        np.array([len(differences[cluster]) for cluster in clusters], dtype=np.int64),
    )


def pooled(parts: Iterable[ClusterDifferences]) -> ClusterDifferences:
    """Several tasks' differences as one: clusters of the same name are added."""
    sums: dict[str, list[float]] = {}
    counts: dict[str, int] = {}
    for part in parts:
        for cluster, total, count in zip(part.clusters, part.sums, part.counts, strict=True):
            sums.setdefault(cluster, []).append(float(total))
            counts[cluster] = counts.get(cluster, 0) + int(count)
    if not sums:
        raise CVoiceError("there is nothing to pool; check that both runs hold the same task")
    clusters = tuple(sorted(sums))
    return ClusterDifferences(
        clusters,
        np.array([math.fsum(sums[cluster]) for cluster in clusters], dtype=np.float64),
        np.array([counts[cluster] for cluster in clusters], dtype=np.int64),
    )


@lru_cache(maxsize=4)
def resamples(clusters: int, draws: int, seed: int) -> Floats:
    """How often each cluster is drawn when as many are drawn with replacement, [draws, clusters]."""
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=draws).astype(np.float64)
    weights.flags.writeable = False
    return weights


def bootstrap_interval(
    d: ClusterDifferences, *, level: float = 0.95, draws: int = 10_000, seed: int = 0, largest: float | None = 1.0
) -> Interval:
    """Confidence interval of the mean difference.

    With at least :data:`FEWEST_CHANGED` clusters that changed, and as many that did not all change alike, the
    percentile bootstrap of the ratio Σ sums / Σ counts over whole clusters. With fewer, the resamples are too much
    alike (where nothing changed there is nothing to resample), so the bound for the mean of a bounded variable: the
    quantile of the mean under Dirichlet(1, ..., 1) weights with one more cluster added that changed by the most that
    can be, downward for the lower bound and upward for the upper one (Gaffke 2005; Learned-Miller & Thomas 2019; Phan
    et al. 2021). For all-or-nothing changes it is the Clopper-Pearson bound; with no change at all it is
    ± ``largest`` · (1 − (α/2)^(1/clusters)).

    Args:
        d: Differences.
        level: Of the two-sided interval.
        draws: Random draws.
        seed: Of the draws.
        largest: The most that one document's number can change: 1 for shares. None for numbers without a limit
            (`margin`), where the largest change seen of a cluster's mean stands in for it.

    Returns:
        Low, high, and ``bootstrap`` or ``bounded``; never of no width, unless no limit is known and nothing changed.
    """
    tail = (1 - level) / 2
    means = np.round(d.sums / d.counts, 12)
    alike = int(np.unique(means, return_counts=True)[1].max())
    if min(d.changed, len(means) - alike) >= FEWEST_CHANGED:
        weights = resamples(len(d.clusters), draws, seed)
        low, high = np.quantile((weights @ d.sums) / (weights @ d.counts), [tail, 1 - tail])
        return Interval(float(low), float(high), "bootstrap")
    seen = float(np.abs(means).max())
    limit = seen if largest is None else max(largest, seen)
    if d.changed == 0:
        edge = limit * -math.expm1(math.log(tail) / len(d.clusters))
        return Interval(-edge, edge, "bounded")
    weights = np.random.default_rng(seed).standard_exponential((draws, len(d.clusters) + 1))
    size = d.documents / len(d.clusters)
    total = weights[:, :-1] @ d.sums
    count = weights[:, :-1] @ d.counts + weights[:, -1] * size
    extreme = weights[:, -1] * size * limit
    low = np.quantile((total - extreme) / count, tail)
    high = np.quantile((total + extreme) / count, 1 - tail)
    return Interval(float(low), float(high), "bounded")
