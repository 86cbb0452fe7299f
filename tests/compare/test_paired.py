from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from compare.paired import ClusterDifferences, bootstrap_interval, cluster_differences, pooled
from cvoice_foundation.errors import CVoiceError
from cvoice_tasks.items import pair_of


def differences(sums: list[float], documents: int = 4) -> ClusterDifferences:
    names = tuple(f"integrity-{number:04d}" for number in range(len(sums)))
    return ClusterDifferences(names, np.array(sums, dtype=np.float64), np.full(len(sums), documents))


def by_pair(key: tuple[str, ...]) -> str:
    return pair_of(key[0])


def test_stories_orders_and_languages_of_a_pair_are_one_cluster() -> None:
    baseline = {
        (f"integrity-{pair:04d}{twin}", language, order): 1.0
        for pair in (1, 2)
        for twin in "ab"
        for language in ("zh", "en")
        for order in "01"
    }
    candidate = baseline | {
        ("integrity-0002b", "en", "0"): 0.0,
        ("integrity-0002a", "zh", "1"): 0.5,
    }
    d = cluster_differences(baseline, candidate, by_pair)
    assert d.clusters == ("integrity-0001", "integrity-0002")
    assert d.sums.tolist() == [0.0, -1.5]
    assert d.counts.tolist() == [8, 8]
    assert d.estimate == -1.5 / 16
    assert d.changed == 1


def test_other_documents_are_refused_by_name() -> None:
    baseline = {("a-1a", "zh"): 1.0, ("a-2a", "zh"): 1.0}
    with pytest.raises(CVoiceError, match="1 of 2 documents are not in the candidate, e.g. a-2a zh"):
        cluster_differences(baseline, {("a-1a", "zh"): 1.0}, by_pair)
    with pytest.raises(CVoiceError, match="not in the baseline"):
        cluster_differences({("a-1a", "zh"): 1.0}, baseline, by_pair)
    with pytest.raises(CVoiceError, match="no documents"):
        cluster_differences({}, {}, by_pair)
    with pytest.raises(CVoiceError, match="no finite number"):
        cluster_differences(baseline, baseline | {("a-2a", "zh"): math.nan}, by_pair)


def test_pooling_adds_clusters_of_one_name() -> None:
    joined = pooled([differences([1.0, -2.0], 4), differences([0.5], 2)])
    assert joined.sums.tolist() == [1.5, -2.0]
    assert joined.counts.tolist() == [6, 4]
    with pytest.raises(CVoiceError, match="nothing to pool"):
        pooled([])


def test_bootstrap_is_the_quantile_of_ratios_of_whole_clusters() -> None:
    generator = np.random.default_rng(3)
    d = ClusterDifferences(
        tuple(map(str, range(30))), generator.integers(-4, 3, 30).astype(float), generator.integers(2, 9, 30)
    )
    drawn = np.random.default_rng(5).multinomial(30, np.full(30, 1 / 30), size=500)
    ratios = sorted(
        sum(n * s for n, s in zip(row, d.sums, strict=True)) / sum(n * c for n, c in zip(row, d.counts, strict=True))
        for row in drawn
    )
    interval = bootstrap_interval(d, level=0.9, draws=500, seed=5)
    # NumPy's default quantile: between the order statistics at (n - 1)·q.
    low = ratios[24] + 0.95 * (ratios[25] - ratios[24])
    high = ratios[474] + 0.05 * (ratios[475] - ratios[474])
    assert interval.method == "bootstrap"
    assert interval.low == pytest.approx(low, abs=1e-9)
    assert interval.high == pytest.approx(high, abs=1e-9)


def test_bootstrap_agrees_with_scipy_to_its_random_error() -> None:
    d = differences(list(np.random.default_rng(1).normal(-1, 2, 80)))
    ours = bootstrap_interval(d, draws=20_000, largest=None)
    theirs = stats.bootstrap(
        (d.sums / d.counts,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(0)
    ).confidence_interval
    spread = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.02 * spread)
    assert ours.high == pytest.approx(theirs.high, abs=0.02 * spread)


@pytest.mark.parametrize("clusters", [1, 5, 60])
def test_no_change_at_all_has_the_width_of_clopper_and_pearson(clusters: int) -> None:
    interval = bootstrap_interval(differences([0.0] * clusters))
    exact = stats.binomtest(0, clusters).proportion_ci(0.95, "exact")
    assert interval.method == "bounded"
    assert interval.high == pytest.approx(exact.high, abs=1e-9)
    assert interval.low == -interval.high


def test_few_whole_changes_have_the_outer_bound_of_clopper_and_pearson() -> None:
    interval = bootstrap_interval(differences([-4.0] * 5 + [0.0] * 55), draws=200_000)
    exact = stats.binomtest(5, 60).proportion_ci(0.95, "exact")
    assert interval.low == pytest.approx(-exact.high, abs=2e-3)
    assert -exact.low < interval.high < 0.02


def test_which_method_is_said_and_turns_at_ten_changed_clusters() -> None:
    for changed, method in ((9, "bounded"), (10, "bootstrap")):
        assert bootstrap_interval(differences([-1.0] * changed + [0.0] * 30)).method == method
    # Nearly everything fell by the same: the few that did not are what the interval hangs on.
    assert bootstrap_interval(differences([-4.0] * 30 + [0.0] * 9)).method == "bounded"


@given(st.lists(st.sampled_from([-4.0, -1.0, 0.0, 0.5, 4.0]), min_size=1, max_size=40))
def test_intervals_have_width_and_hold_the_estimate(sums: list[float]) -> None:
    d = differences(sums)
    interval = bootstrap_interval(d, draws=400)
    assert interval.low < interval.high
    assert interval.low <= d.estimate <= interval.high
    assert interval == bootstrap_interval(d, draws=400)
    assert interval.low >= -1 - 1e-12
    assert interval.high <= 1 + 1e-12
