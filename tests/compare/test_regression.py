from __future__ import annotations

import pytest

from compare.regression import Check, Gate, Verdict, check
from cvoice_foundation.errors import CVoiceError
from tests.compare.run_scores import first_pairs, run_scores, with_settings


def verdicts(outcome: Check) -> dict[str, Verdict]:
    return {comparison.value: comparison.verdict for comparison in outcome.comparisons}


def test_the_same_run_twice_holds_and_is_recovered_exactly() -> None:
    outcome = check(
        run_scores(30, {"freedom-0003a"}), run_scores(30, {"freedom-0003a"}), Gate(max_drop=0.2, strict=True)
    )
    assert verdicts(outcome) == {"overall": "held", "freedom": "held", "integrity": "held"}
    assert outcome.passed
    assert not outcome.flips
    for comparison in outcome.comparisons:
        assert comparison.recovery == 1.0
        assert comparison.difference == 0.0
        assert comparison.p == 1.0
        assert comparison.low < 0 < comparison.high
        assert comparison.languages == ("en", "zh")
    assert [c.clusters for c in outcome.comparisons] == [60, 30, 30]
    assert [c.documents for c in outcome.comparisons] == [480, 240, 240]


def test_a_drop_that_is_large_and_significant_fails_and_names_its_value() -> None:
    outcome = check(run_scores(30), run_scores(30, first_pairs("integrity", 12)), Gate())
    assert verdicts(outcome) == {"overall": "regressed", "freedom": "undecided", "integrity": "regressed"}
    assert not outcome.passed
    integrity = outcome.comparisons[-1]
    assert integrity.difference == pytest.approx(-0.4, abs=1e-12)
    assert integrity.recovery == pytest.approx(0.6, abs=1e-12)
    assert integrity.p == 1 / 2**12
    assert len(outcome.flips) == 12 * 2 * 2
    assert {(flip.before, flip.after) for flip in outcome.flips} == {(1.0, 0.0)}


def test_a_large_drop_of_few_pairs_is_not_shown() -> None:
    outcome = check(run_scores(5), run_scores(5, first_pairs("integrity", 2)), Gate())
    assert verdicts(outcome)["integrity"] == "undecided"
    assert outcome.passed
    assert not check(run_scores(5), run_scores(5, first_pairs("integrity", 2)), Gate(strict=True)).passed
    # Five pairs and two comparisons: even if all fell, Holm's p would be 3/32.
    assert outcome.comparisons[-1].visible_drop is None


def test_a_drop_that_is_significant_alone_is_not_beside_others() -> None:
    fell = first_pairs("integrity", 5)
    (alone,) = check(
        run_scores(30, values=["integrity"]), run_scores(30, fell, values=["integrity"]), Gate()
    ).comparisons
    assert (alone.p, alone.p_holm, alone.verdict) == (1 / 32, 1 / 32, "regressed")
    beside = check(run_scores(30), run_scores(30, fell), Gate()).comparisons[-1]
    assert (beside.p, beside.p_holm, beside.verdict) == (1 / 32, 3 / 32, "undecided")


def test_the_largest_drop_is_a_one_sided_bound() -> None:
    (comparison,) = check(
        run_scores(30, values=["integrity"]), run_scores(30, values=["integrity"]), Gate(alpha=0.1)
    ).comparisons
    assert comparison.largest_drop == pytest.approx(1 - 0.1 ** (1 / 30), abs=1e-12)
    assert comparison.high == pytest.approx(1 - 0.05 ** (1 / 30), abs=1e-12)


def test_a_small_drop_that_is_significant_is_put_up_with() -> None:
    candidate = run_scores(200, first_pairs("integrity", 10))
    outcome = check(run_scores(200), candidate, Gate(max_drop=0.1))
    assert outcome.comparisons[-1].p_holm < 0.05
    assert outcome.passed
    assert verdicts(outcome) == {"overall": "held", "freedom": "held", "integrity": "held"}
    assert verdicts(check(run_scores(200), candidate, Gate(max_drop=0.04)))["integrity"] == "regressed"


def test_what_could_have_been_seen_lies_above_what_is_put_up_with() -> None:
    outcome = check(run_scores(200), run_scores(200), Gate(max_drop=0.1))
    seen = [comparison.visible_drop for comparison in outcome.comparisons]
    assert all(drop is not None and drop > 0.1 for drop in seen)


def test_recovery_is_a_gate_of_its_own_over_all_values() -> None:
    base, masked = run_scores(100), run_scores(100, first_pairs("integrity", 30))
    allowed = Gate(max_drop=0.9)
    assert check(base, masked, allowed).passed
    outcome = check(base, masked, Gate(max_drop=0.9, recovery=0.95))
    assert verdicts(outcome) == {"overall": "regressed", "freedom": "held", "integrity": "held"}
    assert outcome.comparisons[0].recovery == pytest.approx(0.85, abs=1e-12)
    # Between the bounds nothing is shown either way.
    unsure = Gate(max_drop=0.9, recovery=0.85)
    assert verdicts(check(base, masked, unsure))["overall"] == "undecided"
    # Where there is one value, it is all there is.
    single = check(
        run_scores(100, values=["integrity"]),
        run_scores(100, first_pairs("integrity", 30), values=["integrity"]),
        Gate(max_drop=0.9, recovery=0.95),
    )
    assert verdicts(single) == {"integrity": "regressed"}


def test_a_rise_passes() -> None:
    outcome = check(run_scores(30, first_pairs("integrity", 12)), run_scores(30), Gate(max_drop=0.2, strict=True))
    assert outcome.passed
    assert outcome.comparisons[-1].recovery == pytest.approx(1 / 0.6, abs=1e-12)
    assert outcome.flips[0].after == 1.0


def test_a_baseline_of_zero_has_no_recovery() -> None:
    zero = run_scores(12, first_pairs("integrity", 12), values=["integrity"])
    assert check(zero, zero, Gate()).comparisons[0].recovery is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": 2}, r"shots \(0 / 2\)"),
        ({"version": "1.1"}, r"version \(1.0 / 1.1\)"),
        ({"chat_template": True}, r"chat_template \(False / True\)"),
        ({"limit": 8.0}, r"limit \(None / 8.0\)"),
        ({"system_instruction": "ab"}, "system_instruction"),
    ],
)
def test_other_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(CVoiceError, match=message):
        check(run_scores(3), with_settings(run_scores(3), **changes), Gate())


def test_other_items_prompts_and_tasks_are_refused() -> None:
    with pytest.raises(CVoiceError, match="differ in items"):
        check(run_scores(3), run_scores(3, items="other"), Gate())
    with pytest.raises(CVoiceError, match="differ in prompts"):
        check(run_scores(3), run_scores(3, prompts="other"), Gate())
    with pytest.raises(CVoiceError, match="the candidate has no cvoice_en_freedom, cvoice_zh_freedom"):
        check(run_scores(3), run_scores(3, values=["integrity"]), Gate())


def test_what_moves_scores_a_little_is_told_once() -> None:
    outcome = check(run_scores(3), with_settings(run_scores(3), batch_size="16", dtype="torch.bfloat16"), Gate())
    assert outcome.remarks == (
        "baseline and candidate differ in batch_size (8 / 16)",
        "baseline and candidate differ in dtype (torch.float32 / torch.bfloat16)",
    )
    chat = with_settings(run_scores(3), chat_template=True)
    other = with_settings(run_scores(3, prompts="other"), chat_template=True)
    assert any("chat template's text" in remark for remark in check(chat, other, Gate()).remarks)
    more = check(run_scores(3, values=["integrity"]), run_scores(3), Gate())
    assert more.remarks == ("not compared, since the baseline has none: cvoice_en_freedom, cvoice_zh_freedom",)


@pytest.mark.parametrize("wrong", [{"max_drop": 3.0}, {"max_drop": -0.1}, {"alpha": 0.0}, {"recovery": 97.0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(CVoiceError, match=r"(max-drop|alpha|recovery) is"):
        Gate(**wrong)  # type: ignore[arg-type]
