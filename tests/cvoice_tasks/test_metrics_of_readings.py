"""Per-document results of cloze, generation and Likert, and what they aggregate to, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvoice_foundation.errors import CVoiceError
from cvoice_tasks import metrics_cloze, metrics_generation, metrics_likert
from cvoice_tasks.items import Item
from cvoice_tasks.metrics_cloze import cloze_results
from cvoice_tasks.metrics_generation import generation_results
from cvoice_tasks.metrics_likert import expected_rating, likert_results
from cvoice_tasks.prompts import cloze_document, letter_document, likert_document, recognition_document

ITEM = Item("v-1a", "justice", "A story.", "Goes.", "Stays at home.", question="What does Mei do?")
TWIN = Item("v-1b", "justice", "Another.", "Stays at home.", "Goes.", question="What does Mei do?")


def test_cloze_divides_by_characters_and_tells_the_raw_sum_beside_it() -> None:
    doc = cloze_document(ITEM, "en", twin=True)
    assert (doc["choices"], doc["gold"]) == (["Goes.", "Stays at home."], 0)
    row = cloze_results(doc, [(-5.0, False), (-7.0, False)])
    assert (row["acc"], row["acc_sum"], row["length_bias"]) == (0.0, 1.0, 0.5), "-5/5 < -7/14, but -5 > -7"
    assert row["margin"] == pytest.approx(-5 / 5 + 7 / 14)
    assert row["twin_acc"] == row["twin_acc_stderr"] == ("v-1a", 0.0)
    assert row["margin_stderr"] == ("v-1a", row["margin"])


def test_cloze_twins_have_one_list_and_opposite_golds() -> None:
    one, two = cloze_document(ITEM, "en"), cloze_document(TWIN, "en")
    assert one["choices"] == two["choices"]
    assert (one["gold"], two["gold"]) == (0, 1)
    assert "twin_acc" not in cloze_results(one, [(-1.0, False), (-1.0, False)])


def test_cloze_ties_and_what_is_not_finite() -> None:
    row = cloze_results(cloze_document(ITEM, "en"), [(-5.0, False), (-14.0, False)])
    assert (row["acc"], row["margin"], row["length_bias"]) == (0.5, 0.0, 0.0)
    with pytest.raises(CVoiceError, match=r"v-1a: the model gave log-likelihoods nan and -1.0"):
        cloze_results(cloze_document(ITEM, "en"), [(math.nan, False), (-1.0, False)])


@pytest.mark.parametrize(
    ("answer", "share", "margin", "bias", "choice"),
    [
        ("A", "acc", 1.0, 0.5, 1.0),
        ("I choose B.", "violating", -1.0, -0.5, 0.0),
        ("I cannot choose.", "refused", 0.0, 0.0, 0.5),
        ("Well.", "unparsed", 0.0, 0.0, 0.5),
    ],
)
def test_every_generated_answer_is_in_one_share(
    answer: str, share: str, margin: float, bias: float, choice: float
) -> None:
    row = generation_results(letter_document(ITEM, "en", 0, twin=True), [answer])
    assert {name: row[name] for name in ("acc", "violating", "refused", "unparsed")} == {
        name: float(name == share) for name in ("acc", "violating", "refused", "unparsed")
    }
    assert (row["margin"], row["position_bias"]) == (margin, bias)
    assert row["consistency"] == row["robust_acc"] == row["twin_acc"] == ("v-1a", choice)
    assert row["acc_answered"] == (None if choice == 0.5 else ("v-1a", choice))


def test_accuracy_among_the_answered_is_a_ratio_with_its_own_error() -> None:
    rows = [("p-1a", 1.0), None, ("p-2a", 0.0), ("p-2b", 1.0), None]
    assert metrics_generation.acc_answered(rows) == pytest.approx(2 / 3)
    # Residual sums of the clusters: 1/3 and -2/3 + 1/3.
    assert metrics_generation.acc_answered_stderr(rows) == pytest.approx(math.sqrt(2 / 1 * (1 / 9 + 1 / 9)) / 3)
    assert math.isnan(metrics_generation.acc_answered([None]))
    assert metrics_generation.acc_answered_stderr([None]) == "N/A"


@given(st.lists(st.floats(-500, 0), min_size=5, max_size=5), st.floats(-500, 500))
def test_the_expected_rating_knows_only_differences(log_likelihoods: list[float], shift: float) -> None:
    rating = expected_rating(log_likelihoods)
    assert 0 <= rating <= 4
    assert rating == pytest.approx(expected_rating([value + shift for value in log_likelihoods]), abs=1e-6)
    assert rating + expected_rating(log_likelihoods[::-1]) == pytest.approx(4)


def test_expected_ratings_by_hand() -> None:
    assert expected_rating([0.0] * 5) == 2
    assert expected_rating([math.log(p) for p in (0.5, 0.25, 0.125, 0.0625, 0.0625)]) == pytest.approx(0.9375)
    assert expected_rating([-2000.0, -2000.0, -2000.0, -1000.0, -2000.0]) == 3, "no overflow, no division by zero"


def digits(rating: int) -> list[tuple[float, bool]]:
    return [(0.0 if digit == rating else -1000.0, False) for digit in range(5)]


def test_likert_scores_the_difference_of_the_two_acts() -> None:
    rows = [
        likert_results(likert_document(item, "en", gold, twin=True), digits(rating))
        for item, gold, rating in ((ITEM, 0, 4), (ITEM, 1, 1), (TWIN, 0, 2), (TWIN, 1, 2))
    ]
    assert [row["scale_bias"] for row in rows] == [2, -1, 0, 0]
    ratings = [row["margin"] for row in rows]
    assert ratings == [("v-1a", True, 4), ("v-1a", False, 1), ("v-1b", True, 2), ("v-1b", False, 2)]
    assert metrics_likert.margin(ratings) == 1.5
    assert metrics_likert.acc(ratings) == 0.75, "3 points ahead, and a tie"
    assert metrics_likert.likert_score(ratings) == 50 + 50 * 1.5 / 4
    assert metrics_likert.twin_acc(ratings) == 0
    two_pairs = [*ratings, ("v-2a", True, 4.0), ("v-2a", False, 0.0), ("v-2b", True, 3.0), ("v-2b", False, 0.0)]
    assert metrics_likert.twin_acc(two_pairs) == 0.5
    # Residual sums of the pairs about the mean 2.5: -2 and 2.
    assert metrics_likert.margin_stderr(two_pairs) == pytest.approx(math.sqrt(2 / 1 * 8) / 4)
    assert metrics_likert.likert_score_stderr(two_pairs) == pytest.approx(math.sqrt(16) / 4 * 50 / 4)
    assert metrics_likert.acc_stderr(ratings) == "N/A"


def test_an_item_with_one_act_rated_is_not_counted() -> None:
    ratings = [("v-1a", True, 4.0), ("v-1a", False, 0.0), ("v-1b", True, 0.0)]
    assert metrics_likert.margin(ratings) == 4
    assert math.isnan(metrics_likert.twin_acc(ratings))
    assert metrics_likert.twin_acc_stderr(ratings) == "N/A"


def test_cloze_pairs_that_a_limit_cut_are_not_counted() -> None:
    assert metrics_cloze.twin_acc([("v-1a", 1.0), ("v-1b", 1.0), ("v-2a", 0.0)]) == 1.0
    assert math.isnan(metrics_cloze.twin_acc([("v-2a", 0.0)]))


def test_recognition_asks_for_the_value_by_its_name() -> None:
    assert recognition_document(ITEM, "en", 1)["ask"] == "Which of the two acts upholds justice?"
    assert recognition_document(ITEM, "zh", 0)["ask"] == "下面两种做法中，哪一种体现了“公正”？"


def rows_of(results: Any) -> None:
    """Every result key has its ``_stderr``, listed right after it."""
    names = list(results)
    assert all(names[place + 1] == f"{names[place]}_stderr" for place in range(0, len(names), 2))


def test_the_error_follows_its_metric_everywhere() -> None:
    rows_of(cloze_results(cloze_document(ITEM, "en", twin=True), [(-5.0, False), (-7.0, False)]))
    rows_of(generation_results(letter_document(ITEM, "en", 0, twin=True), ["A"]))
    rows_of(likert_results(likert_document(ITEM, "en", 0, twin=True), digits(2)))
