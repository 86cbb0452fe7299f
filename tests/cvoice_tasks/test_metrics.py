"""Metrics against what theory gives, and standard errors against an independent computation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvoice_foundation.errors import CVoiceError
from cvoice_tasks import metrics
from cvoice_tasks.metrics import clustered_stderr, letter_results


def document(item_id: str, gold: int, twin: bool = True) -> dict[str, Any]:
    return {"id": item_id, "gold": gold, "twin": twin}


def results_of(margins: dict[tuple[str, int], float]) -> list[dict[str, Any]]:
    """Documents (item, gold) -> log p(A) − log p(B)."""
    return [letter_results(document(*key), [(margin, False), (0.0, False)]) for key, margin in margins.items()]


def aggregate(rows: list[dict[str, Any]], name: str) -> Any:
    return getattr(metrics, name)([row[name] for row in rows])


def test_one_document() -> None:
    row = letter_results(document("v-1a", 1), [(-2.0, False), (-0.5, True)])
    assert (row["acc"], row["margin"], row["position_bias"]) == (1.0, 1.5, -0.5)
    assert row["acc_stderr"] == ("v-1a", 1.0)
    assert row["margin_stderr"] == ("v-1a", 1.5)
    assert row["twin_acc"] == row["consistency"] == row["robust_acc"] == ("v-1a", 1.0)
    assert list(row).index("acc") < list(row).index("acc_stderr"), "lm-eval's own figure must come first"


def test_an_exact_tie_is_half_right_and_no_choice() -> None:
    rows = results_of({("v-1a", 0): 0.0, ("v-1a", 1): 0.0})
    assert [row["acc"] for row in rows] == [0.5, 0.5]
    assert [row["position_bias"] for row in rows] == [0.0, 0.0]
    assert (aggregate(rows, "consistency"), aggregate(rows, "robust_acc")) == (0.0, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_never_scored(bad: float) -> None:
    with pytest.raises(CVoiceError, match="where finite numbers were expected"):
        letter_results(document("v-1a", 0), [(bad, False), (-1.0, False)])


def test_the_four_documents_of_a_pair() -> None:
    always_a = results_of({(item, gold): 1.0 for item in ("v-1a", "v-1b") for gold in (0, 1)})
    assert [aggregate(always_a, name) for name in ("consistency", "robust_acc", "twin_acc")] == [0, 0, 0]
    right = results_of({(item, gold): 1.0 - 2 * gold for item in ("v-1a", "v-1b") for gold in (0, 1)})
    assert [aggregate(right, name) for name in ("consistency", "robust_acc", "twin_acc")] == [1, 1, 1]
    # The same act whatever the story: aligned in a, violating in b.
    deaf = results_of({("v-1a", 0): 1, ("v-1a", 1): -1, ("v-1b", 0): -1, ("v-1b", 1): 1})
    assert [aggregate(deaf, name) for name in ("consistency", "robust_acc", "twin_acc")] == [1, 0.5, 0]


def test_documents_that_a_limit_cut_off_are_not_counted_as_wrong() -> None:
    rows = results_of({("v-1a", 0): 1, ("v-1a", 1): -1, ("v-1b", 0): 1})
    assert aggregate(rows, "consistency") == 1
    assert math.isnan(aggregate(rows, "twin_acc"))
    assert aggregate(rows, "twin_acc_stderr") == "N/A"


def test_items_without_a_twin_have_no_twin_metric() -> None:
    row = letter_results(document("q1", 0, twin=False), [(0.0, False), (-1.0, False)])
    assert not {"twin_acc", "twin_acc_stderr"} & row.keys()


values = st.lists(st.tuples(st.integers(0, 5), st.floats(-3, 3)), min_size=2, max_size=40)


@given(values)
def test_clustered_stderr_is_the_sandwich_estimator(scores: list[tuple[int, float]]) -> None:
    """Regression on a constant with cluster-robust covariance, written with matrices."""
    groups = np.array([group for group, _ in scores])
    x = np.array([value for _, value in scores])
    design = np.ones((len(x), 1))
    residual = x - x.mean()
    bread = np.linalg.inv(design.T @ design)
    meat = sum(
        np.outer(design[groups == g].T @ residual[groups == g], design[groups == g].T @ residual[groups == g])
        for g in set(groups)
    )
    count = len(set(groups))
    mine = clustered_stderr([(f"v-{group}{'ab'[place % 2]}", value) for place, (group, value) in enumerate(scores)])
    if count < 2:
        assert mine == "N/A"
        return
    expected = math.sqrt((bread @ meat @ bread)[0, 0] * count / (count - 1))
    assert mine == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_one_value_a_cluster_is_lm_evals_own_figure() -> None:
    from lm_eval.api.metrics import mean_stderr

    data = [1.0, 0.0, 0.0, 1.0, 1.0]
    assert clustered_stderr([(f"q{place}", value) for place, value in enumerate(data)]) == pytest.approx(
        mean_stderr(data), rel=1e-12
    )


def test_repeating_every_document_does_not_shrink_the_error() -> None:
    once = [(f"v-{number}a", float(number % 3 == 0)) for number in range(20)]
    twice = once + [(item.replace("a", "b"), value) for item, value in once]
    assert clustered_stderr(twice) == pytest.approx(clustered_stderr(once), rel=1e-12)
