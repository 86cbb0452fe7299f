"""``cvoice check`` and ``cvoice baseline`` as programs: exit codes, files, one line for a mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from compare.baseline import write_baseline
from tests.compare.results_folders import write_results
from tests.compare.run_scores import first_pairs, run_scores

ROOT = Path(__file__).parents[2]


def cvoice(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GITHUB_")}
    path = os.pathsep.join([str(ROOT), clean.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "cvoice.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
        env=clean | {"PYTHONPATH": path} | environment,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("check")
    write_baseline(run_scores(30), root / "base.json")
    write_baseline(run_scores(30, first_pairs("integrity", 12)), root / "fell.json")
    tasks = ["cvoice_zh_integrity"]
    write_results(root / "results", root / "items", tasks=tasks)
    write_results(root / "few", root / "items", tasks=tasks, limit=3)
    return root


def test_zero_where_it_held(folder: Path) -> None:
    done = cvoice("check", "--baseline", "base.json", "--candidate", "base.json", cwd=folder)
    assert done.returncode == 0
    assert "Not shown to regress" in done.stdout
    strict = ["--strict", "--max-drop", "0.2"]
    assert cvoice("check", "--baseline", "base.json", "--candidate", "base.json", *strict, cwd=folder).returncode == 0


def test_one_where_it_regressed_with_all_that_ci_reads(folder: Path) -> None:
    done = cvoice(
        *["check", "--baseline", "base.json", "--candidate", "fell.json"],
        *["--markdown", "check.md", "--junit", "check.xml", "--json", "check.json"],
        cwd=folder,
        GITHUB_ACTIONS="true",
        GITHUB_STEP_SUMMARY=str(folder / "summary.md"),
    )
    assert done.returncode == 1
    assert "::error title=C-voice%3A integrity regressed::" in done.stdout
    assert done.stdout.splitlines()[-1] == "Regressed: overall, integrity"
    assert (folder / "summary.md").read_text("utf-8") == (folder / "check.md").read_text("utf-8")
    assert ET.parse(folder / "check.xml").find("testsuite/[@failures='2']") is not None
    assert json.loads((folder / "check.json").read_text("utf-8"))["passed"] is False


def test_a_baseline_file_stands_in_for_its_results(folder: Path) -> None:
    done = cvoice("baseline", "results", "--out", "made.json", cwd=folder)
    assert done.returncode == 0
    assert done.stdout == "made.json: some/model, 1 tasks, 8 documents\n"
    assert cvoice("check", "--baseline", "made.json", "--candidate", "results", cwd=folder).returncode == 0


def test_a_leaderboard_on_the_screen_or_in_a_file(folder: Path) -> None:
    done = cvoice("leaderboard", "results", cwd=folder)
    assert done.returncode == 0
    assert "| 1 [1–1] | some/model |" in done.stdout
    written = cvoice("leaderboard", "results", "few", "--format", "html", "--out", "board.html", cwd=folder)
    assert written.returncode == 0
    assert (folder / "board.html").read_text("utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "--baseline", "base.json", "--candidate", "nothing"], "nothing: no such folder or file"),
        (["check", "--baseline", "results", "--candidate", "few"], "limit (None / 3.0)"),
        (["check", "--baseline", "base.json", "--candidate", "results"], "the candidate has no cvoice_en_freedom"),
        (["check", "--baseline", "base.json", "--candidate", "base.json", "--max-drop", "3"], "max-drop is 3.0"),
        (["check", "--baseline", "base.json"], "Missing option '--candidate'"),
        (["baseline", "results", "--out", "no/such/folder.json"], "cannot be written"),
        (["leaderboard", "results", "--format", "pdf"], "--format is 'pdf'; there are md, csv, json, html"),
        (["leaderboard", "base.json"], "not named as lm-eval names results"),
    ],
)
def test_two_and_one_line_where_it_cannot_be_compared(folder: Path, arguments: list[str], message: str) -> None:
    done = cvoice(*arguments, cwd=folder)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
