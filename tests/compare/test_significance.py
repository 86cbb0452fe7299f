from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from compare.significance import holm, mcnemar_exact, sign_flip_p, sign_flip_ps, smallest_visible_drop
from tests.compare.test_paired import differences


def scipy_p(sums: list[float], alternative: str) -> float:
    return float(
        stats.permutation_test(
            (np.array(sums),), np.sum, permutation_type="samples", n_resamples=np.inf, alternative=alternative
        ).pvalue
    )


@pytest.mark.parametrize(
    "sums",
    [
        [-1.0, -2.0, -1.0, 0.5],
        [-4.0] * 6,
        [1.0, -1.0],
        [0.1, 0.2, -0.3, 0.7],
        list(np.random.default_rng(0).normal(-0.3, 1, 11)),
    ],
)
def test_exact_sign_flips_agree_with_scipy(sums: list[float]) -> None:
    d = differences([*sums, 0.0, 0.0])
    assert sign_flip_p(d) == pytest.approx(scipy_p(sums, "two-sided"), abs=1e-9)
    assert sign_flip_p(d, alternative="drop") == pytest.approx(scipy_p(sums, "less"), abs=1e-9)


def test_a_hand_computed_table() -> None:
    # Sums 1, 2, 3 and all signs: totals ±6, ±4, ±2, 0, 0. Seen is −4: ±6 and ±4 are as extreme.
    d = differences([1.0, -2.0, -3.0])
    assert sign_flip_p(d) == 4 / 8
    assert sign_flip_p(d, alternative="drop") == 2 / 8
    assert sign_flip_p(differences([0.0, 0.0])) == 1.0
    assert sign_flip_p(differences([0.0, 0.0]), alternative="drop") == 1.0


def test_random_flips_count_the_observed_one() -> None:
    d = differences([-1.0] * 40)
    assert sign_flip_p(d, flips=999) == 1 / 1000
    assert sign_flip_p(d) == sign_flip_p(d)


def test_random_flips_are_near_the_binomial() -> None:
    # 25 changes of one size: the sign test.
    d = differences([-1.0] * 18 + [1.0] * 7)
    assert sign_flip_p(d, flips=200_000) == pytest.approx(stats.binomtest(7, 25).pvalue, abs=1e-3)


def test_many_comparisons_at_once_are_each_as_alone() -> None:
    generator = np.random.default_rng(2)
    sums = generator.integers(-3, 3, (5, 30)).astype(float)
    sums[3, 8:] = 0.0
    alone = [sign_flip_p(differences(list(row)), seed=4) for row in sums]
    assert sign_flip_ps(sums, seed=4).tolist() == alone


def test_holm_agrees_with_statsmodels_in_any_shape() -> None:
    p = np.random.default_rng(0).random((12, 12)) ** 3
    p[0, :3] = 1e-5
    expected = multipletests(p.ravel(), method="holm")[1].reshape(12, 12)
    np.testing.assert_allclose(holm(p), expected, atol=1e-9)
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06], abs=1e-12)
    assert holm([]).tolist() == []


def test_mcnemar_agrees_with_statsmodels() -> None:
    for b in range(12):
        for c in range(12):
            expected = mcnemar([[5, b], [c, 7]], exact=True).pvalue if b + c else 1.0
            assert mcnemar_exact(b, c) == pytest.approx(expected, abs=1e-9)
    assert mcnemar_exact(400, 900) == pytest.approx(stats.binomtest(400, 1300).pvalue, rel=1e-9)


def test_what_too_few_clusters_cannot_see() -> None:
    assert smallest_visible_drop(differences([0.0] * 4), 0.05) == math.inf
    assert smallest_visible_drop(differences([0.0] * 5), 0.05) < 1.0


def test_more_clusters_less_noise_and_fewer_comparisons_see_less() -> None:
    quiet = smallest_visible_drop(differences([0.0] * 60), 0.05)
    assert quiet > smallest_visible_drop(differences([0.0] * 240), 0.05)
    assert quiet < smallest_visible_drop(differences([0.0] * 30 + [4.0, -4.0] * 15), 0.05)
    assert quiet < smallest_visible_drop(differences([0.0] * 60), 0.05 / 12)
    assert smallest_visible_drop(differences([0.0] * 240), 0.05, beyond=0.1) > 0.1
