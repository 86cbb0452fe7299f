from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compare.baseline import load_scores, write_baseline
from cvoice_foundation.errors import CVoiceError
from tests.compare.results_folders import write_results
from tests.compare.run_scores import run_scores


def test_a_baseline_file_holds_what_its_results_hold(tmp_path: Path) -> None:
    families = ("", "_cloze", "_likert", "_gen")
    tasks = [f"cvoice{family}_{language}_integrity" for family in families for language in ("zh", "en")]
    folder = write_results(tmp_path / "out", tmp_path / "items", tasks=tasks, wrong={"integrity-0001b"})
    scores = load_scores(folder)
    write_baseline(scores, tmp_path / "baseline.json")
    back = load_scores(tmp_path / "baseline.json")
    assert back.model == scores.model
    assert back.tasks.keys() == scores.tasks.keys()
    for name, task in scores.tasks.items():
        assert back.tasks[name].numbers == {"acc": task.numbers["acc"]}
        assert back.tasks[name].settings == task.settings
        assert back.tasks[name].items_sha256 == task.items_sha256
    write_baseline(back, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "baseline.json").read_bytes()
    # One line a task, so that a diff in a pull request shows which tasks moved.
    assert len((tmp_path / "baseline.json").read_text("utf-8").splitlines()) == 5 + len(tasks) + 4
    results = next(folder.rglob("results_*.json"))
    assert load_scores(results).tasks.keys() == scores.tasks.keys()


def test_other_versions_and_halves_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    write_baseline(run_scores(2), file)
    content = json.loads(file.read_text("utf-8"))

    def refused(changed: object, match: str) -> None:
        file.write_text(json.dumps(changed), "utf-8")
        with pytest.raises(CVoiceError, match=match):
            load_scores(file)

    refused(content | {"version": 2}, "of version 2, this C-voice reads 1")
    refused({key: value for key, value in content.items() if key != "tasks"}, "not a whole baseline file")
    refused(content | {"tasks": {"arc_easy": {}}}, "no task is called 'arc_easy'")
    refused(content | {"format": "other"}, "not named as lm-eval names results")
    refused([], "not named as lm-eval names results")


def test_samples_without_scores_say_why(tmp_path: Path) -> None:
    # One act of an item is no rating of the item.
    write_results(tmp_path / "out", tmp_path / "items", tasks=["cvoice_likert_zh_integrity"], limit=1)
    with pytest.raises(CVoiceError, match="no acc in the samples of cvoice_likert_zh_integrity; run lm_eval without"):
        load_scores(tmp_path / "out")


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 2000), length=st.integers(1, 40), junk=st.text('{}[]",:0 a', max_size=4))
def test_a_damaged_baseline_file_is_read_or_refused(tmp_path: Path, start: int, length: int, junk: str) -> None:
    file = tmp_path / "baseline.json"
    write_baseline(run_scores(1, values=["integrity"]), file)
    text = file.read_text("utf-8")
    start %= len(text)
    file.write_text(text[:start] + junk + text[start + length :], "utf-8")
    with contextlib.suppress(CVoiceError):
        load_scores(file)
