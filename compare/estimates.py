"""A mean difference with its interval, and differences between differences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compare.paired import ClusterDifferences, bootstrap_interval

DRAWS = 10_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean difference, masked minus unmasked, with what it rests on.

    Attributes:
        difference: Of the mean over documents.
        low: Of its 95 % interval.
        high: Of its 95 % interval.
        method: That made the interval: ``bootstrap`` or ``bounded`` (see :mod:`compare.paired`).
        documents: How many.
        pairs: How many pair numbers, the clusters.
        changed: Pairs whose number changed.
    """

    difference: float
    low: float
    high: float
    method: str
    documents: int
    pairs: int
    changed: int


def estimate(d: ClusterDifferences, seed: int, largest: float | None = 1.0) -> Estimate:
    """A mean difference with its 95 % interval; arguments as of :func:`compare.paired.bootstrap_interval`."""
    interval = bootstrap_interval(d, draws=DRAWS, seed=seed, largest=largest)
    return Estimate(d.estimate, interval.low, interval.high, interval.method, d.documents, len(d.clusters), d.changed)


def between(first: ClusterDifferences, second: ClusterDifferences, seed: int) -> Estimate | None:
    """One effect less another, pair by pair, over the pairs that both have; None where there are none.

    Args:
        first: Differences of shares.
        second: Differences of shares, of the same pair numbers asked in another way.
        seed: Of the interval.
    """
    means = [dict(zip(d.clusters, d.sums / d.counts, strict=True)) for d in (first, second)]
    both = [cluster for cluster in first.clusters if cluster in means[1]]
    if not both:
        return None
    sums = np.array([means[0][cluster] - means[1][cluster] for cluster in both])
    return estimate(ClusterDifferences(tuple(both), sums, np.ones(len(both), dtype=np.int64)), seed, 2.0)
