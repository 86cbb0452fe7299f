"""An effect that is there is claimed, one that is not is not, and every number is what its definition gives."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

import pytest

from compare.effects import of_runs, recognitions
from compare.effects_run import remarks
from compare.paired import bootstrap_interval, cluster_differences
from compare.perplexity import perplexity_changes
from compare.runs import Run
from compare.samples import Numbers, cluster_of
from compare.significance import holm, mcnemar_exact, sign_flip_p
from cvoice_foundation.errors import CVoiceError

VALUES = ("integrity", "freedom", "harmony")
LANGUAGES = ("zh", "en")


def run(name: str, acc: Callable[[tuple[str, ...]], float], pairs: int = 16, family: str = "letters") -> Run:
    """A run whose documents score what a function of (family, language, value, item, order) says."""
    keys = [
        (family, language, value, f"{value}-{number:04d}{twin}", order)
        for value, language, number, twin, order in itertools.product(
            VALUES, LANGUAGES, range(1, pairs + 1), "ab", "01"
        )
    ]
    numbers: Numbers = {key: acc(key) for key in keys}
    return Run(
        name, None, {"acc": numbers, "margin": {key: 2 * number for key, number in numbers.items()}, "twin_acc": {}}
    )


def right(_: tuple[str, ...]) -> float:
    return 1.0


def wrong_for(value: str, share: float, seed: int = 0) -> Callable[[tuple[str, ...]], float]:
    """Wrong in a share of the pairs of a value."""

    def acc(key: tuple[str, ...]) -> float:
        chance = random.Random(f"{seed} {key[3][:-1]}").random()
        return 0.0 if key[2] == value and chance < share else 1.0

    return acc


def noise(seed: int) -> Callable[[tuple[str, ...]], float]:
    """Wrong in a few pairs of every value."""
    return lambda key: 0.0 if random.Random(f"{seed} {key[3][:-1]}").random() < 0.05 else 1.0


CONTROLS = {"integrity": [run(f"integrity-random-{n:03d}", noise(n)) for n in range(20)]}


def test_an_effect_on_its_own_value_is_claimed_and_no_other() -> None:
    cells, specificity, _ = of_runs(run("baseline", right), [run("integrity", wrong_for("integrity", 0.9))], CONTROLS)
    claimed = {(cell.mask, cell.value) for cell in cells if cell.claimed}
    assert claimed == {("integrity", "integrity")}
    own = cells[0]
    assert (own.value, own.rank, own.of, own.baseline) == ("integrity", 1, 21, 1.0)
    assert own.acc.low <= own.acc.difference <= own.acc.high < -0.4
    (found,) = specificity
    assert found.own == own.acc
    assert found.difference.difference == pytest.approx(own.acc.difference, abs=1e-12), "the others did not move"
    assert found.difference.high < -0.4


def test_every_number_is_its_definition() -> None:
    baseline, masked = run("baseline", noise(100)), run("integrity", wrong_for("integrity", 0.6))
    cells, specificity, _ = of_runs(baseline, [masked], CONTROLS, seed=3)
    ds = {}
    for cell in cells:
        before, after = (
            {key: n for key, n in one.numbers["acc"].items() if key[2] == cell.value} for one in (baseline, masked)
        )
        d = ds[cell.value] = cluster_differences(before, after, cluster_of)
        mean = sum(after[key] - before[key] for key in before) / len(before)
        assert cell.acc.difference == pytest.approx(mean, abs=1e-12)
        assert (cell.acc.documents, cell.acc.pairs) == (len(before), 16)
        interval = bootstrap_interval(d, draws=10_000, seed=3)
        assert (cell.acc.low, cell.acc.high, cell.acc.method) == (interval.low, interval.high, interval.method)
        assert cell.p == sign_flip_p(d, flips=20_000, seed=3)
        controls = [
            sum(c.numbers["acc"][key] - before[key] for key in before) / len(before) for c in CONTROLS["integrity"]
        ]
        assert cell.controls == pytest.approx(controls)
        assert cell.rank == 1 + sum(abs(c) >= abs(cell.acc.difference) - 1e-12 for c in controls)
        assert cell.margin is not None
        assert cell.margin.difference == pytest.approx(2 * mean, abs=1e-12)
        for language in LANGUAGES:
            part = [after[key] - before[key] for key in before if key[1] == language]
            assert cell.by_language[language].difference == pytest.approx(sum(part) / len(part), abs=1e-12)
        assert cell.between_languages is not None
        assert cell.between_languages.difference == pytest.approx(0, abs=1e-12), "both languages score alike here"
    assert [cell.p_holm for cell in cells] == pytest.approx(holm([cell.p for cell in cells]).tolist())
    others = [ds[value].estimate for value in VALUES[1:]]
    assert specificity[0].difference.difference == pytest.approx(ds["integrity"].estimate - sum(others) / 2, abs=1e-12)


def test_an_effect_that_random_masks_have_too_is_not_claimed() -> None:
    alike = {"integrity": [run(f"r{n}", wrong_for("integrity", 0.9, seed=n)) for n in range(20)]}
    cells, _, _ = of_runs(run("baseline", right), [run("integrity", wrong_for("integrity", 0.9, seed=99))], alike)
    assert cells[0].p_holm < 0.05
    assert cells[0].rank > 1
    assert not cells[0].claimed


@pytest.mark.parametrize("controls", [0, 18])
def test_without_enough_controls_nothing_is_claimed(controls: int) -> None:
    some = {"integrity": CONTROLS["integrity"][:controls]}
    cells, _, _ = of_runs(run("baseline", right), [run("integrity", wrong_for("integrity", 0.9))], some)
    assert cells[0].p_holm < 0.05
    assert not any(cell.claimed for cell in cells)
    assert "nothing is claimed" in remarks(cells, 0)[0]
    assert "19 is the fewest" in remarks(cells, 18)[0]


def test_too_few_pairs_are_told() -> None:
    cells, _, _ = of_runs(run("baseline", right, 5), [run("integrity", wrong_for("integrity", 1), 5)], {})
    assert cells[0].p == 2 / 2**5
    assert (
        "With 5 pairs a value the smallest p that one of 3 cells (letters) can have, corrected, is 0.19"
        in remarks(cells, 20)[0]
    )


def test_languages_that_differ_are_seen() -> None:
    def only_zh(key: tuple[str, ...]) -> float:
        return 0.0 if key[1] == "zh" and key[2] == "freedom" else 1.0

    cells, _, _ = of_runs(run("baseline", right), [run("freedom", only_zh)], {})
    found = next(cell for cell in cells if cell.value == "freedom")
    assert found.between_languages is not None
    assert found.between_languages.difference == -1
    assert (found.by_language["zh"].difference, found.by_language["en"].difference) == (-1, 0)


def test_readings_are_corrected_apart_and_other_tasks_are_abilities() -> None:
    def joined(name: str, acc: Callable[[tuple[str, ...]], float], other: float) -> Run:
        parts = [run(name, acc), run(name, acc, family="recog")]
        numbers = {m: parts[0].numbers[m] | parts[1].numbers[m] for m in ("acc", "margin", "twin_acc")}
        return Run(name, None, numbers, {"arc": {("other", "", "arc", str(n), ""): other for n in range(30)}})

    cells, _, abilities = of_runs(joined("baseline", right, 1), [joined("integrity", wrong_for("integrity", 1), 0)], {})
    assert [(cell.family, cell.value) for cell in cells] == [(f, v) for f in ("letters", "recog") for v in VALUES]
    assert cells[0].p_holm == cells[3].p_holm == pytest.approx(3 * cells[0].p)
    assert [(a.mask, a.task, a.effect.difference, a.effect.documents) for a in abilities] == [
        ("integrity", "arc", -1, 30)
    ]


def test_runs_of_other_documents_are_told() -> None:
    with pytest.raises(CVoiceError, match="paired statistics need the same items"):
        of_runs(run("baseline", right, 5), [run("integrity", right, 4)], {})


def test_pairs_right_throughout_are_tested_by_mcnemar() -> None:
    def twins(name: str, wrong: dict[str, set[int]]) -> Run:
        """A pair is right in a language unless its number is among the wrong ones there."""
        numbers: Numbers = {
            ("letters", language, "integrity", f"integrity-{n:04d}", ""): float(n not in wrong.get(language, set()))
            for language in LANGUAGES
            for n in range(1, 17)
        }
        one = run(name, right)
        return Run(name, None, {**one.numbers, "twin_acc": numbers})

    before = twins("baseline", {"zh": {1, 2}})
    after = twins("integrity", {"zh": {1, 3, 4, 5}, "en": {4, 5, 6, 7, 8, 9}})
    cells, _, _ = of_runs(before, [after], {})
    found = cells[0].twins
    assert found is not None
    assert (found.pairs, found.lost, found.won) == (16, 7, 1), "3 to 9 lost, 2 won, 1 wrong throughout"
    assert found.p == mcnemar_exact(7, 1)
    assert cells[1].twins is None, "no twins of this value"


def test_recognition_stands_beside_choice() -> None:
    def both(
        name: str, choice: Callable[[tuple[str, ...]], float], recognised: Callable[[tuple[str, ...]], float]
    ) -> Run:
        parts = [run(name, choice), run(name, recognised, family="recog")]
        return Run(name, None, {m: parts[0].numbers[m] | parts[1].numbers[m] for m in ("acc", "margin", "twin_acc")})

    baseline = both("baseline", right, right)
    masked = [
        both("integrity", wrong_for("integrity", 1), right),
        both("freedom", wrong_for("freedom", 1), wrong_for("freedom", 1)),
        both("no_value", right, right),
    ]
    integrity, freedom, together = recognitions(baseline, masked)
    assert (integrity.mask, integrity.choice.difference, integrity.recognition.difference) == ("integrity", -1, 0)
    assert (freedom.mask, freedom.difference.difference) == ("freedom", 0)
    assert integrity.difference.difference == -1
    assert integrity.difference.high < 0
    assert together.mask is None
    assert (together.choice.difference, together.recognition.difference) == (-1, -0.5)
    assert (together.difference.difference, together.difference.pairs) == (-0.5, 32)
    assert recognitions(run("baseline", right), [run("integrity", right)]) == [], "recognition was not asked for"


def test_perplexity_is_compared_passage_by_passage() -> None:
    def passages(name: str, factor: float) -> Run:
        numbers = {("neutral", "en", "", f"p{n:02d}", ""): (10.0 + n) * factor ** (n % 3) for n in range(12)}
        return Run(name, None, {}, passages=numbers)

    baseline = passages("baseline", 1)
    controls = {"integrity": [passages(f"r{n}", 1 + n / 100) for n in range(3)]}
    (found,) = perplexity_changes(baseline, [passages("integrity", 2)], controls)
    assert found.log_ratio.difference == pytest.approx(math.log(2), rel=1e-12)
    assert found.after / found.before == pytest.approx(2, rel=1e-12)
    assert found.before == pytest.approx(math.prod(10 + n for n in range(12)) ** (1 / 12), rel=1e-12)
    assert found.log_ratio.low < math.log(2) < found.log_ratio.high
    assert (found.language, found.rank, found.of, found.log_ratio.documents) == ("en", 1, 4, 12)
    assert found.controls == pytest.approx([0, math.log(1.01), math.log(1.02)])
    assert perplexity_changes(run("baseline", right), [run("integrity", right)], {}) == []


def test_what_was_not_measured_is_told() -> None:
    told = remarks([], 20, unscored=["wikitext"], passages=0)
    assert told[0].startswith("wikitext gives no number a document")
    assert told[1].startswith("There are no neutral passages")
    assert remarks([], 20, passages=3) == []
