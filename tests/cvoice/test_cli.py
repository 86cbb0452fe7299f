"""The command line: an example in every help, one line for every mistake, nothing half written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from cvoice.cli import app

COMMANDS = sorted(
    command.name or str(command.callback.__name__) for command in app.registered_commands if command.callback
)
GROUPS = sorted(group.name or "" for group in app.registered_groups)


def cvoice(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cvoice.cli", *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )


def test_every_help_has_an_example() -> None:
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        assert "Example:" in (command.help or ""), name
    assert {*COMMANDS, *GROUPS} == set(group.commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bogus"], "cvoice: error: No such command 'bogus'; see 'cvoice --help'"),
        (["select"], "cvoice select: error: Missing argument 'STATS...'; see 'cvoice select --help'"),
        (["locate", "--model", "organism", "--out", "out", "--method", "contrst"], "did you mean contrast"),
        (["locate", "--model", "organism", "--out", "out", "--shard", "4/4"], "--shard is '4/4'"),
        (["locate", "--model", "organism", "--out", "out", "--tokens", "storys"], "--tokens names 'storys'"),
        (["locate", "--model", "organism", "--out", "out", "--stance", "up"], "--stance is 'up'"),
        (["controls", "none.jsonl", "--out", "out"], "none.jsonl: cannot read this mask file"),
        (["controls", "file", "--out", "out"], "file: not a mask file"),
        (["locate", "--model", "organism", "--out", "out", "--language", "fr"], "--language is 'fr'"),
        (
            ["locate", "--model", "organism", "--out", "out", "--top-rate", "2"],
            "--top-rate is 2.0, and should lie between",
        ),
        (["locate", "--model", "nowhere/at-all", "--out", "out"], "--model nowhere/at-all: cannot load this model"),
        (
            ["locate", "--model", "organism", "--out", "out", "--data", "none.zh.jsonl"],
            "none.zh.jsonl: cannot read this items file",
        ),
        (["locate", "--model", "organism", "--out", "file/out"], "cannot write results there"),
        (["select", "none.safetensors", "--out", "out"], "none.safetensors: not a statistics file"),
        (["select", "a=none.pt", "b=none.pt", "--out", "out", "--denominator", "words"], "--denominator is 'words'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2_and_nothing_is_written(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "file").write_text("")
    done = cvoice(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "file"]


def test_locate_as_a_module_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "locate", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Usage: python -m locate" in done.stdout
    assert "--top-rate" in done.stdout
