"""Every reading through lm-eval, on models whose scores theory gives: exact, in leaves and groups."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest

from cvoice_tasks.values import VALUE_KEYS, Language
from cvoice_tasks.yaml.generate import FAMILIES
from tests.items_for_tests import items_folder, twin_lines, write_items
from tests.lm_eval_runs import evaluate
from tests.rule_models import AlwaysA, AlwaysLonger, EveryPattern, RuleLM

PREFIXES = [family.prefix for family in FAMILIES]
LETTERS = ("cvoice", "cvoice_recog")
LONG: dict[Language, tuple[str, str]] = {
    "en": ("the coast", "the far and windy coast"),
    "zh": ("海边", "又远又冷的海边"),
}


def stretched(lines: list[dict[str, str]], language: Language) -> list[dict[str, str]]:
    """The same twins with one act longer than the other."""
    short, long = LONG[language]
    return [line | {key: line[key].replace(short, long) for key in ("aligned", "violating")} for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = items_folder(tmp_path_factory.mktemp("items"))
    for language in ("zh", "en"):
        lines = [line for value in VALUE_KEYS for line in twin_lines(value, 3, language)]
        write_items(folder / f"evaluation.{language}.jsonl", stretched(lines, language))
    return folder


def scores(model: RuleLM, task: str, folder: Path, **arguments: Any) -> dict[str, Any]:
    return all_scores(model, task, folder, **arguments)[task]


def all_scores(model: RuleLM, task: str, folder: Path, **arguments: Any) -> dict[str, dict[str, Any]]:
    """Scores of a task, and of all that it holds if it is a group."""
    results = evaluate(model, [task], metadata={"data_dir": str(folder)}, log_samples=False, **arguments)["results"]
    return {
        name: {key.removesuffix(",none"): value for key, value in row.items() if key.endswith(",none")}
        for name, row in results.items()
    }


def assert_equal(got: dict[str, Any], expected: dict[str, float]) -> None:
    shown = {name for name in got if not name.endswith("_stderr")}
    assert shown == set(expected)
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, abs=1e-9), name


_A_LETTERS = {"acc": 0.5, "robust_acc": 0, "twin_acc": 0, "consistency": 0, "margin": 0, "position_bias": 0.5}
ALWAYS_A: dict[str, dict[str, float]] = {
    "cvoice": _A_LETTERS,
    "cvoice_recog": _A_LETTERS,
    # It says none of the acts, and none of them less than another.
    "cvoice_cloze": {"acc": 0.5, "acc_sum": 0.5, "twin_acc": 0, "margin": 0, "length_bias": 0},
    "cvoice_gen": {"acc": 0.5, "violating": 0.5, "refused": 0, "unparsed": 0, "robust_acc": 0, "twin_acc": 0}
    | {"consistency": 0, "margin": 0, "position_bias": 0.5},
    # It says no digit, so every one is as likely.
    "cvoice_likert": {"acc": 0.5, "twin_acc": 0, "margin": 0, "likert_score": 50, "scale_bias": 0},
}
_LONGER_LETTERS = {"acc": 0.5, "robust_acc": 0.5, "twin_acc": 0, "consistency": 1, "margin": 0, "position_bias": 0}
LONGER: dict[str, dict[str, float]] = {
    "cvoice": _LONGER_LETTERS,
    "cvoice_recog": _LONGER_LETTERS,
    "cvoice_cloze": {"acc": 0.5, "acc_sum": 0.5, "twin_acc": 0, "margin": 0, "length_bias": 0.5},
    "cvoice_gen": {"acc": 0.5, "violating": 0.5, "refused": 0, "unparsed": 0, "robust_acc": 0.5, "twin_acc": 0}
    | {"consistency": 1, "margin": 0, "position_bias": 0},
    "cvoice_likert": {"acc": 0.5, "twin_acc": 0, "margin": 0, "likert_score": 50},
}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_model_that_always_says_a(prefix: str, folder: Path) -> None:
    got = scores(AlwaysA(), prefix, folder)
    assert_equal(got, ALWAYS_A[prefix])
    assert got["acc_stderr"] == 0, "every pair scores the same"


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_model_that_always_says_the_longer_text(prefix: str, folder: Path) -> None:
    got = scores(AlwaysLonger(), prefix, folder)
    if prefix == "cvoice_likert":
        # It rates both acts of all items, in both languages, by their length.
        acts = [
            line[key]
            for language in ("zh", "en")
            for value in VALUE_KEYS
            for line in stretched(twin_lines(value, 3, language), language)
            for key in ("aligned", "violating")
        ]
        bias = sum(min(4, len(act) // 10) for act in acts) / len(acts) - 2
        assert bias != 0
        assert got.pop("scale_bias") == pytest.approx(bias)
    assert_equal(got, LONGER[prefix])
    assert got["acc_stderr"] == 0


def numbered(folder: Path, pairs: int) -> Path:
    """Pairs that tell their number, from 0, and their twin."""
    folder.mkdir()
    lines = []
    for number in range(pairs):
        acts = (f"Goes to the coast, {number}.", f"Stays in town, {number}.")
        for twin, (aligned, violating) in (("a", acts), ("b", acts[::-1])):
            line = {"id": f"justice-{number}{twin}", "value": "justice", "story": f"#{number} ({twin}) A day off."}
            lines.append(line | {"aligned": aligned, "violating": violating})
    write_items(folder / "evaluation.en.jsonl", lines)
    return folder


def stderr_of_the_mean(pairs: int, documents: int, variance: float) -> float:
    """Of independent answers over all patterns: the sum of squared residual sums is pairs · documents · variance."""
    return math.sqrt(pairs / (pairs - 1) * pairs * documents * variance) / (pairs * documents)


@pytest.mark.parametrize("prefix", LETTERS)
def test_a_random_choice_of_letters(prefix: str, tmp_path: Path) -> None:
    got = scores(EveryPattern(("A", "B"), 4, "Goes"), f"{prefix}_en_justice", numbered(tmp_path / "i", 16))
    expected = {"acc": 1 / 2, "robust_acc": 1 / 4, "twin_acc": 1 / 16, "consistency": 1 / 2}
    assert_equal(got, expected | {"margin": 0, "position_bias": 0})
    assert got["acc_stderr"] == pytest.approx(stderr_of_the_mean(16, 4, 1 / 4))
    assert got["position_bias_stderr"] == pytest.approx(stderr_of_the_mean(16, 4, 1 / 4))
    assert got["robust_acc_stderr"] == pytest.approx(stderr_of_the_mean(16, 2, 3 / 16))
    assert got["consistency_stderr"] == pytest.approx(stderr_of_the_mean(16, 2, 1 / 4))
    assert got["twin_acc_stderr"] == pytest.approx(stderr_of_the_mean(16, 1, 15 / 256))
    assert got["margin_stderr"] == pytest.approx(stderr_of_the_mean(16, 4, 1000**2))


class RandomText(EveryPattern):
    """Finds one of the two acts likelier, by its first letter."""

    def score(self, prompt: str, text: str) -> float:
        return -len(text) * (1.0 if text[0] == self.says(prompt) else 2.0)


def test_a_random_choice_of_texts(tmp_path: Path) -> None:
    got = scores(RandomText(("G", "S"), 2, "Goes"), "cvoice_cloze_en_justice", numbered(tmp_path / "i", 4))
    margin = got.pop("margin"), got.pop("margin_stderr")
    assert margin == (0, pytest.approx(stderr_of_the_mean(4, 2, 1)))
    assert got.pop("acc_sum") == 1 / 2
    assert_equal(got, {"acc": 1 / 2, "twin_acc": 1 / 4, "length_bias": 0})
    assert got["acc_stderr"] == pytest.approx(stderr_of_the_mean(4, 2, 1 / 4))
    assert got["twin_acc_stderr"] == pytest.approx(stderr_of_the_mean(4, 1, 3 / 16))


def test_a_random_answer_that_may_refuse_or_say_nothing(tmp_path: Path) -> None:
    answers = ("A", "B", "I cannot choose.", "Who knows?")
    got = scores(EveryPattern(answers, 4, "Goes"), "cvoice_gen_en_justice", numbered(tmp_path / "i", 256))
    shares = dict.fromkeys(("acc", "violating", "refused", "unparsed"), 1 / 4)
    counted = {"robust_acc": 1 / 16, "twin_acc": 1 / 256, "consistency": 1 / 8, "acc_answered": 1 / 2}
    assert_equal(got, shares | counted | {"margin": 0, "position_bias": 0})
    for share in shares:
        assert got[f"{share}_stderr"] == pytest.approx(stderr_of_the_mean(256, 4, 3 / 16))
    assert got["margin_stderr"] == pytest.approx(stderr_of_the_mean(256, 4, 1 / 2))
    assert got["position_bias_stderr"] == pytest.approx(stderr_of_the_mean(256, 4, 1 / 8))


def test_a_random_rating(tmp_path: Path) -> None:
    model = EveryPattern(tuple("01234"), 4, "Goes")
    got = scores(model, "cvoice_likert_en_justice", numbered(tmp_path / "i", 625))
    # A tie, one in five, is half right, and is not above: twins 2/5 · 2/5.
    assert_equal(got, {"acc": 1 / 2, "twin_acc": 4 / 25, "margin": 0, "likert_score": 50, "scale_bias": 0})
    assert got["margin_stderr"] == pytest.approx(stderr_of_the_mean(625, 2, 4)), "the variance of a digit is 2"
    assert got["likert_score_stderr"] == pytest.approx(stderr_of_the_mean(625, 2, 4 * (50 / 4) ** 2))
    assert got["scale_bias_stderr"] == pytest.approx(stderr_of_the_mean(625, 4, 2))
    assert got["acc_stderr"] == pytest.approx(stderr_of_the_mean(625, 2, 1 / 5))


class Moody(RuleLM):
    """Answers by a hash of the prompt."""

    def says(self, prompt: str) -> str:
        place = hashlib.sha256(prompt.encode()).digest()[0]
        return (
            str(place % 5)
            if prompt.rstrip().endswith(("one digit only.\nAnswer:", "一个数字。\n答案："))
            else "AB"[place % 2]
        )

    def score(self, prompt: str, text: str) -> float:
        noise = hashlib.sha256((prompt + text).encode()).digest()[0] / 256
        return -len(text) * (noise + 1) if len(text) > 1 else super().score(prompt, text)


@pytest.mark.parametrize("family", FAMILIES, ids=PREFIXES)
def test_groups_show_the_mean_and_error_of_independent_leaves(family: Any, folder: Path) -> None:
    got = all_scores(Moody(), family.prefix, folder)
    for languages in (("en",), ("zh",), ("zh", "en")):
        leaves = [got[f"{family.prefix}_{language}_{value}"] for language in languages for value in VALUE_KEYS]
        group = got[family.prefix if len(languages) == 2 else f"{family.prefix}_{languages[0]}"]
        for metric in family.group_metrics:
            assert group[metric] == pytest.approx(sum(leaf[metric] for leaf in leaves) / len(leaves)), metric
            pooled = math.sqrt(sum(leaf[f"{metric}_stderr"] ** 2 for leaf in leaves)) / len(leaves)
            assert group[f"{metric}_stderr"] == pytest.approx(pooled), metric
        assert group["acc_stderr"] > 0
        assert "acc_answered" not in group, "a ratio over the answered: lm-eval would weight it by all documents"


@pytest.mark.parametrize("prefix", PREFIXES)
def test_items_that_are_no_twins_have_no_twin_metric(prefix: str, folder: Path, tmp_path: Path) -> None:
    lines = [line for line in twin_lines("justice", 3, "en") if line["id"].endswith("a")]
    write_items(tmp_path / "evaluation.en.jsonl", lines)
    got = scores(AlwaysA(), f"{prefix}_en_justice", tmp_path)
    assert "acc" in got
    assert "twin_acc" not in got
