from __future__ import annotations

import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from scipy import stats

from compare.baseline import RunScores
from compare.leaderboard import Board, board, leaderboards, mean_interval
from compare.leaderboard_formats import FORMATS, as_json, csv_table, html_page, markdown
from cvoice_foundation.errors import CVoiceError
from tests.compare.results_folders import write_results
from tests.compare.run_scores import first_pairs, run_scores, with_settings


def made(*runs: RunScores) -> Board:
    return board("letters", [(f"folder{number}", run) for number, run in enumerate(runs)])


def ranks(result: Board) -> dict[str, tuple[int | None, int | None, int | None]]:
    return {entry.model.name: (entry.rank, entry.rank_low, entry.rank_high) for entry in result.entries}


def model(name: str, wrong: int, pairs: int = 30) -> RunScores:
    return run_scores(pairs, first_pairs("integrity", wrong) | first_pairs("freedom", wrong), name=name)


def test_ranks_say_which_are_not_excluded() -> None:
    result = made(model("worst", 28), model("good", 1), model("best", 0), model("middle", 14))
    assert ranks(result) == {"best": (1, 1, 2), "good": (2, 1, 2), "middle": (3, 3, 3), "worst": (4, 4, 4)}
    assert [entry.model.name for entry in result.entries] == ["best", "good", "middle", "worst"]


def test_equal_scores_share_a_rank() -> None:
    assert ranks(made(model("a", 3), model("b", 3))) == {"a": (1, 1, 2), "b": (1, 1, 2)}


def test_a_few_pairs_exclude_nothing_however_clear() -> None:
    # Two values of two pairs: even four of four pairs give p = 2/16.
    assert ranks(made(model("a", 0, pairs=2), model("b", 2, pairs=2))) == {"a": (1, 1, 2), "b": (2, 1, 2)}


def test_ranks_hold_for_all_models_together() -> None:
    def one(name: str, wrong: int) -> RunScores:
        return run_scores(30, first_pairs("integrity", wrong), name=name, values=["integrity"])

    # Six pairs: p = 2/64, which is enough for one comparison and not for three.
    assert ranks(made(one("a", 0), one("b", 6))) == {"a": (1, 1, 1), "b": (2, 2, 2)}
    assert ranks(made(one("a", 0), one("b", 6), one("c", 6))) == {"a": (1, 1, 3), "b": (2, 1, 3), "c": (2, 1, 3)}


def test_one_model_alone_is_first() -> None:
    assert ranks(made(model("a", 3))) == {"a": (1, 1, 1)}


def test_the_organism_is_shown_and_never_ranked() -> None:
    result = made(model("organism", 0), model("a", 3))
    assert ranks(result) == {"a": (1, 1, 1), "organism": (None, None, None)}
    assert "never ranked" in result.entries[-1].notes[0]
    alone = made(model("organism", 0))
    assert ranks(alone) == {"organism": (None, None, None)}
    assert "never ranked" in markdown([alone])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "1.1"}, "version (1.0 / 1.1)"),
        ({"shots": 4}, "shots (0 / 4)"),
        ({"limit": 10.0}, "limit (None / 10.0)"),
        ({"chat_template": True}, "chat_template (False / True)"),
    ],
)
def test_other_settings_are_shown_and_not_ranked(changes: dict[str, object], message: str) -> None:
    result = made(model("a", 0), model("b", 1), with_settings(model("other", 0), **changes))
    assert ranks(result)["other"] == (None, None, None)
    assert message in result.entries[-1].notes[0]
    assert ranks(result)["b"] == (2, 1, 2)


def test_other_items_prompts_and_tasks_are_shown_and_not_ranked() -> None:
    common = [model("a", 0), model("b", 1)]
    assert "items (" in made(*common, run_scores(30, name="c", items="x")).entries[-1].notes[0]
    assert "prompts (" in made(*common, run_scores(30, name="c", prompts="x")).entries[-1].notes[0]
    fewer = made(*common, run_scores(30, name="c", languages=["zh"]))
    assert fewer.entries[-1].notes == ("not comparable: has no cvoice_en_freedom, cvoice_en_integrity",)
    more = made(*common, run_scores(30, name="c", values=["integrity", "freedom", "justice"]))
    assert more.entries[-1].notes == ("not comparable: alone has cvoice_en_justice, cvoice_zh_justice",)


def test_batch_size_and_dtype_are_told_and_ranked() -> None:
    result = made(model("a", 0), model("b", 1), with_settings(model("c", 2), dtype="torch.bfloat16", batch_size="1"))
    assert ranks(result)["c"][0] == 3
    assert result.entries[-1].notes == (
        "ranked, but differs (others / this) in batch_size (8 / 1)",
        "ranked, but differs (others / this) in dtype (torch.float32 / torch.bfloat16)",
    )


def test_chat_templates_differ_between_models_by_nature() -> None:
    chat = [with_settings(run_scores(30, name=name, prompts=name), chat_template=True) for name in "ab"]
    assert ranks(made(*chat)) == {"a": (1, 1, 2), "b": (1, 1, 2)}
    assert not any(entry.notes for entry in made(*chat).entries)


def test_scores_by_language_level_and_value() -> None:
    run = run_scores(10, first_pairs("integrity", 5), values=["integrity", "friendship", "freedom"])
    (entry,) = made(run).entries
    means = {(score.kind, score.name): score.mean for score in entry.scores}
    assert means == {
        ("overall", "overall"): pytest.approx(5 / 6),
        ("language", "zh"): pytest.approx(5 / 6),
        ("language", "en"): pytest.approx(5 / 6),
        ("level", "individual"): 0.75,  # freedom alone would be no level
        ("value", "freedom"): 1.0,
        ("value", "integrity"): 0.5,
        ("value", "friendship"): 1.0,
    }
    assert {(score.documents, score.clusters) for score in entry.scores if score.kind == "value"} == {(80, 10)}


def test_a_perfect_score_has_the_interval_of_clopper_and_pearson() -> None:
    numbers = {("letters", "zh", "integrity", f"integrity-{n:04d}a", "0"): 1.0 for n in range(20)}
    mean, interval, clusters = mean_interval(numbers, level=0.95)
    exact = stats.binomtest(20, 20).proportion_ci(0.95, "exact")
    assert (mean, clusters) == (1.0, 20)
    assert interval.low == pytest.approx(exact.low, abs=0.02)  # to the error of random draws
    assert interval.high == 1.0


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_all_formats_hold_the_same_and_names_stay_text() -> None:
    bad = "</th><script>alert(1)</script>|x"
    boards = [made(model(bad, 0), model("b", 14))]
    page = html_page(boards)
    parsed = _Text()
    parsed.feed(page)
    assert "script" not in parsed.tags
    assert bad in parsed.text
    assert "http" not in page
    assert "&lt;script>alert(1)&lt;/script>\\|x" in markdown(boards)
    rows = list(csv.DictReader(io.StringIO(csv_table(boards))))
    assert {row["model"] for row in rows} == {bad, "b"}
    assert [row["mean"] for row in rows if row["model"] == "b" and row["kind"] == "overall"] == [repr(16 / 30)]
    content = json.loads(as_json(boards))
    assert content["boards"][0]["entries"][0]["rank"] == 1
    assert all(make(boards) == make(boards) for make in FORMATS.values())


def test_a_model_that_stands_twice_is_told_apart_by_its_folder() -> None:
    text = markdown([made(model("a", 0), model("a", 3))])
    assert "| a (folder0) |" in text
    assert "| a (folder1) |" in text


def test_from_folders_with_every_family(tmp_path: Path) -> None:
    tasks = ["cvoice_zh_integrity", "cvoice_cloze_zh_integrity", "cvoice_likert_zh_integrity"]
    for name, wrong in (("good/one", ()), ("bad/one", ("integrity-0001a",))):
        write_results(tmp_path / "out", tmp_path / "items", tasks=tasks, name=name, wrong=wrong)
    boards = leaderboards([tmp_path / "out"])
    assert [result.family for result in boards] == ["letters", "cloze", "likert"]
    assert all(ranks(result) == {"good/one": (1, 1, 2), "bad/one": (2, 1, 2)} for result in boards)
    assert [result.family for result in leaderboards([tmp_path / "out"], metric="robust_acc")] == ["letters"]
    with pytest.raises(CVoiceError, match="there is no metric 'bleu'"):
        leaderboards([tmp_path / "out"], metric="bleu")
