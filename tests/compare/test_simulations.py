"""Whether tests and intervals hold what they promise, on random data whose truth is known.

Tables are printed (``pytest -s -n0``): what falls short of its level stands there.
"""

from __future__ import annotations

import numpy as np
import pytest

from compare.leaderboard import board
from compare.paired import ClusterDifferences, Floats, bootstrap_interval
from compare.significance import holm, sign_flip_p, sign_flip_ps, smallest_visible_drop
from tests.compare.run_scores import run_scores
from tests.compare.test_paired import differences


def changes(
    generator: np.random.Generator, clusters: int, down: float, up: float, *, whole: bool
) -> ClusterDifferences:
    """Clusters of four documents: a share falls, a share rises, by all four documents or by one to four."""
    size = np.full(clusters, 4) if whole else generator.integers(1, 5, clusters)
    place = generator.random(clusters)
    return differences(list(np.where(place < down, -size, np.where(place > 1 - up, size, 0)).astype(float)))


@pytest.mark.parametrize("changed", [0.1, 0.5])
def test_a_matrix_without_effects_claims_something_in_at_most_five_of_a_hundred_runs(changed: float) -> None:
    generator = np.random.default_rng(7)
    runs, values, clusters = 200, 12, 60
    claims = 0
    for run in range(runs):
        columns: list[Floats] = []
        for value in range(values):  # a value's items are the same for all masks
            size = generator.integers(1, 5, (values, clusters))
            sign = 1.0 - 2.0 * generator.integers(0, 2, (values, clusters))
            sums = np.where(generator.random((values, clusters)) < changed, size * sign, 0.0)
            columns.append(sign_flip_ps(sums, seed=run * values + value))
        claims += bool(holm(np.array(columns)).min() <= 0.05)
    print(f"\nfamily-wise error, {changed:.0%} of the clusters changed: {claims / runs:.3f} of {runs} runs")
    # At a true rate of 5 % more than 16 of 200 come up in fewer than 3 of 100 such tests.
    assert claims <= 16


def test_coverage_over_a_grid_of_effect_and_size() -> None:
    generator = np.random.default_rng(11)
    runs = 300
    effects = [(0.0, 0.0), (0.02, 0.02), (0.05, 0.0), (0.1, 0.05), (0.2, 0.0), (0.3, 0.2), (0.5, 0.0), (0.9, 0.0)]
    short = []
    print("\nclusters  falling  rising  changes  coverage  mean width  by bootstrap")
    for clusters in (5, 20, 60, 240):
        for down, up in effects:
            for whole in (False, True):
                truth = (up - down) * (1.0 if whole else 0.625)
                covered, width, bootstrapped = 0, 0.0, 0
                for _ in range(runs):
                    interval = bootstrap_interval(changes(generator, clusters, down, up, whole=whole), draws=1000)
                    covered += interval.low <= truth <= interval.high
                    width += interval.high - interval.low
                    bootstrapped += interval.method == "bootstrap"
                coverage = covered / runs
                row = (
                    f"{clusters:8d}  {down:7.2f}  {up:6.2f}  {'whole' if whole else 'partial':7s}  {coverage:8.3f}"
                    f"  {width / runs:10.3f}  {bootstrapped / runs:12.2f}"
                )
                print(row + ("  < .95" if coverage < 0.95 else ""))
                short += [row] if coverage < 0.95 else []
    print(f"{len(short)} of {4 * len(effects) * 2} cells under 95 %; with {runs} runs .95 is seen as .925 to .975")
    assert all(float(row.split()[4]) >= 0.90 for row in short), short


@pytest.mark.parametrize(
    ("clusters", "alpha", "beyond"), [(30, 0.05, 0.0), (60, 0.05, 0.0), (60, 0.05 / 12, 0.03), (240, 0.05, 0.1)]
)
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_the_smallest_visible_drop_is_seen_as_often_as_it_says(
    clusters: int, alpha: float, beyond: float, noise: float
) -> None:
    generator = np.random.default_rng(13)
    seen_before = changes(generator, clusters, noise / 2, noise / 2, whole=False)
    drop = smallest_visible_drop(seen_before, alpha, beyond=beyond)
    runs, found = 300, 0
    for run in range(runs):
        sums = generator.choice(seen_before.sums, clusters) * (1 - 2 * generator.integers(0, 2, clusters))
        d = differences(list(np.where(generator.random(clusters) < drop, -4.0, sums)))
        found += -d.estimate > beyond and sign_flip_p(d, flips=2000, seed=run, alternative="drop") <= alpha
    setting = f"{clusters} clusters, alpha {alpha:.4f}, more than {beyond:.2f}, noise {noise:.0%}"
    print(f"\n{setting}: a drop of {drop:.3f} is seen in {found / runs:.2f}")
    assert 0.72 <= found / runs <= 0.92


def test_ranks_of_equal_models_leave_all_ranks_open_in_ninety_five_of_a_hundred_runs() -> None:
    generator = np.random.default_rng(17)
    runs, models, pairs, wrong = 60, 4, 40, 0
    for _ in range(runs):
        answers = []
        for name in "abcd":
            missed = np.flatnonzero(generator.random(pairs) < 0.4) + 1
            names = {f"integrity-{number:04d}" for number in missed}
            answers.append((name, run_scores(pairs, names, name=name, values=["integrity"], languages=["zh"])))
        entries = board("letters", answers).entries
        wrong += any((entry.rank_low, entry.rank_high) != (1, models) for entry in entries)
    print(f"\nranks wrongly excluded in {wrong / runs:.3f} of {runs} runs of {models} equal models")
    # At a true rate of 5 % more than 7 of 60 come up in 2 of 100 such tests.
    assert wrong <= 7
