from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compare.results import Model, read_run, read_runs, task_parts
from compare.samples import read_task
from cvoice_foundation.errors import CVoiceError
from tests.compare.results_folders import write_results

TASKS = [
    f"cvoice{family}_{language}_integrity"
    for family in ("", "_cloze", "_gen", "_recog", "_likert")
    for language in ("zh", "en")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    return write_results(root / "out", root / "items", tasks=TASKS, wrong={"integrity-0002b"})


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "out"))


def results_file(folder: Path) -> Path:
    return next(folder.rglob("results_*.json"))


def change(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(content | changes), "utf-8")


def test_every_family_and_metric_of_a_real_run(folder: Path) -> None:
    run = read_run(folder)
    assert run.model == Model("some/model")
    assert sorted(run.tasks) == sorted(TASKS)
    lm_eval = json.loads(results_file(folder).read_text("utf-8"))["results"]
    for name, task in run.tasks.items():
        scores = read_task(task)
        expected = {
            key.removesuffix(",none"): value
            for key, value in lm_eval[name].items()
            if key.endswith(",none") and "_stderr" not in key and key != "acc_answered,none"
        }
        assert scores.numbers.keys() == expected.keys(), name
        for metric, numbers in scores.numbers.items():
            assert sum(numbers.values()) / len(numbers) == pytest.approx(expected[metric], abs=1e-9), (name, metric)
    letters = read_task(run.tasks["cvoice_zh_integrity"])
    assert letters.numbers["acc"]["letters", "zh", "integrity", "integrity-0002b", "1"] == 0.0
    assert letters.numbers["twin_acc"] == {
        ("letters", "zh", "integrity", "integrity-0001", ""): 1.0,
        ("letters", "zh", "integrity", "integrity-0002", ""): 0.0,
    }
    assert "consistency" not in read_task(run.tasks["cvoice_cloze_zh_integrity"]).numbers


def test_names_of_tasks() -> None:
    assert task_parts("cvoice_zh_rule_of_law") == ("letters", "zh", "rule_of_law")
    assert task_parts("cvoice_recog_en_justice") == ("recog", "en", "justice")
    assert task_parts("cvoice_zh") is None
    assert task_parts("arc_easy") is None


def test_a_task_is_taken_from_its_newest_run_unless_one_is_named(copy: Path) -> None:
    old = results_file(copy)
    for file in list(old.parent.glob("*_cvoice_zh_integrity_*")) + [old]:
        time = file.stem.rpartition("_")[2]
        newer = file.with_name(file.name.replace(time, "2099-01-01T00-00-00.000000"))
        shutil.copy(file, newer)
    newest = old.with_name("results_2099-01-01T00-00-00.000000.json")
    change(newest, **{"n-samples": {"cvoice_zh_integrity": {"original": 8, "effective": 8}}})
    run = read_run(copy)
    assert run.tasks["cvoice_zh_integrity"].results == newest
    assert run.tasks["cvoice_en_integrity"].results == old
    assert read_run(old).tasks["cvoice_zh_integrity"].results == old


def test_an_output_path_that_is_a_file_gives_results_of_its_name(copy: Path) -> None:
    file = results_file(copy)
    file.rename(file.with_name(file.name.replace("results_", "mine_")))
    assert len(read_run(copy).tasks) == len(TASKS)


def test_models_masks_and_modes_are_told_apart(copy: Path) -> None:
    first = results_file(copy)
    masked = first.parent.with_name("masked")
    shutil.copytree(first.parent, masked)
    config = json.loads(first.read_text("utf-8"))["config"]
    mask = {"mask": "m.jsonl", "mask_sha256": "ab", "mask_mode": "mean", "mask_strength": None, "mask_neurons": 7}
    change(results_file(masked), config=config | mask)
    assert [run.model for run in read_runs(copy)] == [
        Model("some/model"),
        Model("some/model", "", "m.jsonl", "ab", "mean", None, 7),
    ]
    # The same neurons under another file's name are the same mask; another dtype is another model.
    assert Model("a", mask="x", mask_sha256="ab") == Model("a", mask="y", mask_sha256="ab")
    change(results_file(masked), config=config | {"model_args": {"pretrained": "some/model", "dtype": "bfloat16"}})
    assert [run.model.label for run in read_runs(copy)] == ["some/model", "some/model (dtype=bfloat16)"]
    with pytest.raises(CVoiceError, match="holds 2 models"):
        read_run(copy)


def test_the_organism_is_known_by_name_and_by_path() -> None:
    names = ["organism", "organism+mask-4330e55933bc", "/somewhere/site-packages/organism/model", "organism/model"]
    assert all(Model(name).is_organism for name in names)
    assert not any(Model(name).is_organism for name in ["my-organism", "organism-7b", "x/organism"])


def test_what_cannot_be_read_is_one_line(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(CVoiceError, match="no such folder"):
        read_runs(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CVoiceError, match="no results_"):
        read_runs(tmp_path / "empty")
    file = results_file(copy)
    whole = file.read_text("utf-8")

    file.write_text(whole[: len(whole) // 2], "utf-8")
    with pytest.raises(CVoiceError, match="cut off or not JSON"):
        read_runs(copy)

    file.write_text('{"lm_eval_version": "0.3.0", "results": {}, "versions": {}}', "utf-8")
    with pytest.raises(CVoiceError, match=r"written by lm-eval 0\.3\.0: configs, n-shot, n-samples, config missing"):
        read_runs(copy)
    file.write_text("[1]", "utf-8")
    with pytest.raises(CVoiceError, match="not a results file of lm-eval"):
        read_runs(copy)

    file.write_text(whole, "utf-8")
    change(file, **{"n-samples": {"arc_easy": {"original": 2, "effective": 2}}})
    with pytest.raises(CVoiceError, match="holds arc_easy, none of them C-voice's"):
        read_runs(copy)


def test_another_release_with_the_same_parts_is_read_with_a_warning(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change(results_file(copy), lm_eval_version="0.4.14")
    assert read_runs(copy)
    assert "written by lm-eval 0.4.14" in caplog.text


def test_a_run_without_samples_says_what_to_add(tmp_path: Path) -> None:
    write_results(tmp_path / "out", tmp_path / "items", tasks=["cvoice_zh_integrity"], samples=False)
    with pytest.raises(CVoiceError, match="again with --log_samples"):
        read_runs(tmp_path / "out")


def test_samples_that_are_cut_off_or_of_another_kind_are_named(copy: Path) -> None:
    task = read_run(copy).tasks["cvoice_zh_integrity"]
    lines = task.samples.read_text("utf-8").splitlines(keepends=True)

    def refused(text: str, match: str) -> None:
        task.samples.write_text(text, "utf-8")
        with pytest.raises(CVoiceError, match=match):
            read_task(task)

    refused("".join(lines[:-1]), "7 documents where results_.* counts 8")
    refused("".join(lines)[:-200], "line 8: not a JSON object")
    refused("".join([*lines, lines[0]]), "line 9: integrity-0001a stands there twice")
    refused('{"doc": {"question": "2+2"}}\n', "line 1: not a sample of cvoice_zh_integrity")
    refused("".join(lines).replace('"filter": "none"', '"filter": "b"', 1), "rows of the filters b and none")
    os.unlink(task.samples)
    with pytest.raises(CVoiceError, match="not beside it"):
        read_run(copy)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(part=st.sampled_from(["results", "configs", "versions", "n-shot", "n-samples", "config"]), junk=_JSON)
def test_whatever_stands_in_a_results_file_is_read_or_refused(tmp_path: Path, part: str, junk: Any) -> None:
    content: dict[str, Any] = {
        "results": {},
        "configs": {},
        "versions": {},
        "n-shot": {},
        "n-samples": {"cvoice_zh_integrity": {"effective": 1}},
        "config": {},
        "lm_eval_version": "0.4.13",
    }
    file = tmp_path / "results_2026-01-01T00-00-00.000000.json"
    file.write_text(json.dumps(content | {part: junk}), "utf-8")
    with pytest.raises(CVoiceError):  # there are no samples, so nothing is right
        read_runs(tmp_path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    field=st.sampled_from(["doc", "metrics", "filter", "doc_hash", "acc", "consistency"]),
    junk=_JSON.filter(lambda value: not isinstance(value, (int, float))),
)
def test_whatever_stands_in_a_samples_row_is_read_or_refused(copy: Path, field: str, junk: Any) -> None:
    task = read_run(copy).tasks["cvoice_zh_integrity"]
    whole = task.samples.read_text("utf-8")
    first, rest = whole.split("\n", 1)
    task.samples.write_text(json.dumps(json.loads(first) | {field: junk}) + "\n" + rest, "utf-8")
    try:
        with contextlib.suppress(CVoiceError):
            read_task(task)
    finally:
        task.samples.write_text(whole, "utf-8")
