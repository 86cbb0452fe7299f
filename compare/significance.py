"""Tests of paired differences, their correction for many comparisons, and what they could have seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from compare.paired import ClusterDifferences, Floats

Alternative = Literal["two-sided", "drop"]

_CHUNK = 2_000
"""Sign vectors drawn at once: 20,000 of a thousand clusters would be 160 MB."""

_FEW = 13
"""With so few changed clusters the normal approximation of the sign-flip test is too coarse."""


@lru_cache(maxsize=8)
def _all_signs(count: int) -> Floats:
    """Every vector of ``count`` signs, [2^count, count]."""
    bits = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
    signs = np.asarray(1.0 - 2.0 * bits, dtype=np.float64)
    signs.flags.writeable = False
    return signs


def _as_extreme(totals: Floats, observed: Floats, alternative: Alternative) -> NDArray[np.int64]:
    """How many flipped totals [flips, cells] are at least as extreme as the observed ones [cells]."""
    # Sums of the same terms in another order differ in their last bits; they are ties.
    slack = 100 * np.finfo(np.float64).eps * np.abs(observed)
    drop = alternative == "drop"
    extreme = totals <= observed + slack if drop else np.abs(totals) >= np.abs(observed) - slack
    return np.asarray(extreme.sum(axis=0), dtype=np.int64)


def sign_flip_ps(sums: Floats, *, flips: int = 20_000, seed: int = 0, alternative: Alternative = "two-sided") -> Floats:
    """:func:`sign_flip_p` of many comparisons over the same clusters at once.

    Args:
        sums: Summed differences, [comparisons, clusters].
        flips: The most sign vectors to try a comparison.
        seed: Of the random sign vectors, which all comparisons share.
        alternative: As there.

    Returns:
        p values, [comparisons].
    """
    observed = sums.sum(axis=1)
    changed = np.count_nonzero(sums, axis=1)
    p = np.ones(len(sums))
    exact = changed <= math.log2(flips)
    for cell in np.flatnonzero(exact):
        signs = _all_signs(int(changed[cell]))
        totals = signs @ sums[cell][sums[cell] != 0]
        p[cell] = _as_extreme(totals[:, None], observed[cell : cell + 1], alternative)[0] / len(signs)
    rest = np.flatnonzero(~exact)
    if rest.size:
        generator = np.random.default_rng(seed)
        extreme = np.zeros(rest.size, dtype=np.int64)
        for start in range(0, flips, _CHUNK):
            rows = min(_CHUNK, flips - start)
            heads = generator.integers(0, 2, size=(rows, sums.shape[1]), dtype=np.int8)
            extreme += _as_extreme((1.0 - 2.0 * heads) @ sums[rest].T, observed[rest], alternative)
        p[rest] = (1 + extreme) / (1 + flips)
    return p


def sign_flip_p(
    d: ClusterDifferences, *, flips: int = 20_000, seed: int = 0, alternative: Alternative = "two-sided"
) -> float:
    """Permutation test of no difference: under it, each cluster's sum could as well have had the other sign.

    Exact over all 2^changed sign vectors where these are at most ``flips``; else (1 + k)/(1 + flips), where k of the
    random ones are at least as extreme (Phipson & Smyth 2010).

    Args:
        d: Differences.
        flips: The most sign vectors to try.
        seed: Of the random ones.
        alternative: ``two-sided``, or ``drop`` for the one-sided test that the candidate is lower.

    Returns:
        The p value; 1 where nothing changed.
    """
    return float(sign_flip_ps(d.sums[None, :], flips=flips, seed=seed, alternative=alternative)[0])


def holm(p_values: Sequence[float] | Floats) -> Floats:
    """Adjusts p values for their number by Holm's step-down method (1979).

    Args:
        p_values: p values of one family, any shape.

    Returns:
        Adjusted p values in the same places, float64 of the same shape, at most 1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    flat = p.ravel()
    order = np.argsort(flat, kind="stable")
    steps = np.maximum.accumulate(flat[order] * (flat.size - np.arange(flat.size)))
    adjusted = np.empty_like(flat)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted.reshape(p.shape)


def mcnemar_exact(b: int, c: int) -> float:
    """McNemar's test with the binomial's own probabilities, for one yes-or-no answer a cluster (`twin_acc`).

    Args:
        b: Pairs right before and wrong after.
        c: Pairs wrong before and right after.

    Returns:
        Two-sided p: min(1, 2·P(X <= min(b, c))) with X ~ Binomial(b + c, 1/2).
    """
    n = b + c
    tail = sum(math.comb(n, k) for k in range(min(b, c) + 1))
    return min(1.0, float(2 * tail / 2**n))


def smallest_visible_drop(
    d: ClusterDifferences,
    alpha: float,
    power: float = 0.8,
    *,
    beyond: float = 0.0,
    largest: float = 1.0,
    draws: int = 1_000,
    seed: int = 0,
) -> float:
    """The smallest true drop that the one-sided sign-flip test would have found with the given power.

    In each of ``draws`` simulated runs a cluster falls with probability x, all its documents by ``largest`` (nothing
    spreads a given drop over fewer clusters, so other drops of this size are seen sooner); the others change by what
    was seen of some cluster, with random signs. The test is exact where few clusters changed; elsewhere its critical
    value is z(1 − alpha)·√Σ sums².

    Args:
        d: Differences, for the number and sizes of clusters and for the noise.
        alpha: Level of the one-sided test; divided by the number of comparisons where there are several.
        power: Probability of finding it.
        beyond: The drop must also be larger than this to count as found.
        largest: The most that one document's number can fall.
        draws: Simulated runs a size.
        seed: Of the simulation.

    Returns:
        The drop, as a positive mean difference of a document; infinity where even the largest one would not be seen.
    """
    generator = np.random.default_rng(seed)
    clusters = len(d.clusters)
    uniform = generator.random((draws, clusters))
    noise = generator.choice(d.sums, size=(draws, clusters))
    noise *= 1.0 - 2.0 * generator.integers(0, 2, size=(draws, clusters))
    z = NormalDist().inv_cdf(1 - alpha)

    def seen(share: float) -> bool:
        sums = np.where(uniform < share, -largest * d.counts, noise)
        fall = -sums.sum(axis=1)
        found = (fall >= z * np.sqrt(np.square(sums).sum(axis=1))) & (fall > beyond * d.documents)
        few = np.flatnonzero(found & (np.count_nonzero(sums, axis=1) <= _FEW))
        found[few] = sign_flip_ps(sums[few], alternative="drop") <= alpha
        return bool(found.mean() >= power)

    low, high = 0.0, 1.0
    if not seen(high):
        return math.inf
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if seen(middle) else (middle, high)
    return high * largest
