"""The tour runs what it prints, prints what users can type, and begins in a folder of its own."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer

from compare.effects_run import read_masks
from cvoice.cli import app
from cvoice.demo import steps, tour
from cvoice_foundation.errors import CVoiceError
from cvoice_tasks.values import VALUE_KEYS


def test_it_runs_the_commands_that_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[Sequence[str]] = []
    tour(tmp_path / "out", ran.append)
    printed = [shlex.split(line[2:]) for line in capsys.readouterr().out.splitlines() if line.startswith("$ ")]
    assert printed == [["cvoice", *command] for command in ran]
    assert ran == [step.command for step in steps(tmp_path / "out")]


def test_its_commands_are_commands(tmp_path: Path) -> None:
    group = typer.main.get_command(app)
    for step in steps(tmp_path):
        name, *arguments = step.command
        command = group.commands[name]  # type: ignore[attr-defined]
        command.make_context(name, list(arguments), resilient_parsing=False)


def test_its_masks_are_bundled() -> None:
    assert [mask.value for mask in read_masks(Path("organism"))] == list(VALUE_KEYS)
    assert [mask.value for mask in read_masks(Path("organism/truth"))] == [*VALUE_KEYS, "control"]


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("")
    with pytest.raises(CVoiceError, match="is not empty; choose another folder with --out"):
        tour(tmp_path, lambda _: None)
