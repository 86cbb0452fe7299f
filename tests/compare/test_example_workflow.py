"""The commands of docs/examples/value-regression.yml, read from it and run as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / "docs" / "examples" / "value-regression.yml"


def commands(workflow: dict[str, Any], job: str) -> dict[str, str]:
    return {step["name"]: step["run"] for step in workflow["jobs"][job]["steps"] if "run" in step}


def test_the_commands_of_the_example_workflow_run_as_they_stand(tmp_path: Path) -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text("utf-8"))
    check, baseline = commands(workflow, "check"), commands(workflow, "baseline")
    assert list(check) == ["Install", "Evaluate", "Check"]
    assert list(baseline) == ["Install", "Evaluate", "Write the baseline file"]
    # The same evaluation makes both sides; it is run once.
    assert check["Evaluate"] == baseline["Evaluate"]
    # Install is not run, since tests have no package index; what it installs from is there.
    assert check["Install"] == baseline["Install"] == 'pip install -c "$CVOICE/constraints.txt" "$CVOICE"'
    installed = ROOT / workflow["env"]["CVOICE"]
    assert {"constraints.txt", "pyproject.toml"} <= {path.name for path in installed.iterdir()}
    environment = os.environ | {
        **workflow["env"],
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "GITHUB_ACTIONS": "true",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        "OMP_NUM_THREADS": "2",
    }
    output = ""
    for command in (check["Evaluate"], baseline["Write the baseline file"], check["Check"]):
        done = subprocess.run(
            ["bash", "-e", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        output = done.stdout
    assert "::notice title=C-voice::Held in all 13 comparisons" in output
    assert (tmp_path / "value-baseline.json").stat().st_size < 2_000_000
    assert (tmp_path / "check.xml").is_file()
    assert (tmp_path / "summary.md").read_text("utf-8") == (tmp_path / "check.md").read_text("utf-8")
