"""The wheel, built and installed elsewhere: what is in it, what lm-eval then sees, and what uninstalling leaves.

The new environments see this one's libraries, so that nothing is downloaded, but not this one's C-voice.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cvoice", "cvoice_foundation", "cvoice_tasks", "intervention", "locate", "organism")
LM_EVAL = ["-c", "import sys; from lm_eval.__main__ import cli_evaluate; sys.exit(cli_evaluate())"]


class Environment:
    """A virtual environment of its own."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.folder = folder
        self.python = str(folder / "bin" / "python")
        self.site = Path(self.output("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        (self.site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def pip(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "pip", "--python", self.python, *arguments]
        subprocess.run([*command, "--disable-pip-version-check", "-q"], check=True, capture_output=True)

    def run(self, *arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | variables
        environment["HF_HUB_OFFLINE"] = "1"
        return subprocess.run(
            [self.python, *arguments],
            capture_output=True,
            text=True,
            cwd=cwd or self.folder,
            env=environment,
            check=False,
        )

    def output(self, *arguments: str, **variables: str) -> str:
        done = self.run(*arguments, **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def files(self) -> set[str]:
        return {str(path.relative_to(self.site)) for path in self.site.rglob("*") if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("environment"))
    environment.pip("install", "--ignore-installed", "--no-deps", "--no-index", str(wheel))
    return environment


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and not {"__pycache__", "startup"} & set(path.parts)
    }
    assert expected <= inside
    kinds = {"cvoice_tasks/yaml/letters/_letters_zh_template_yaml", "organism/model/model.safetensors"}
    kinds |= {
        f"cvoice_tasks/data/{split}.{language}.jsonl"
        for split in ("evaluation", "activation")
        for language in ("zh", "en")
    }
    assert kinds | {"organism/model/config.json", "organism/masks/patriotism.jsonl"} <= inside
    assert {f"_cvoice_lm_eval_hook.{suffix}" for suffix in ("py", "pth", "start")} <= inside
    assert sum(name.endswith("config.json") and not name.endswith("_config.json") for name in inside) == 1
    assert (
        sum(zipfile.ZipFile(wheel).getinfo(name).file_size for name in inside if name.startswith("organism/model/"))
        < 10e6
    )


def test_the_main_command_prints_the_table(elsewhere: Environment, tmp_path: Path) -> None:
    command = [
        "--tasks",
        "cvoice_zh",
        "--model",
        "neuron_masked_hf",
        "--model_args",
        "mask=organism/patriotism",
        "--limit",
        "4",
    ]
    done = elsewhere.run(*LM_EVAL, *command, "--output_path", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "|cvoice_zh" in done.stdout
    assert "cvoice_zh_patriotism" in done.stdout
    assert "Custom kwargs" not in done.stderr
    (folder,) = (tmp_path / "out").iterdir()
    assert folder.name.startswith("organism+mask-")


def test_lm_eval_lists_our_tasks_and_python_finds_the_model(elsewhere: Environment) -> None:
    listed = elsewhere.output("-m", "lm_eval", "ls", "tasks")
    assert "cvoice_zh_rule_of_law" in listed
    assert "hellaswag" in listed
    code = "from lm_eval.api.registry import get_model; print(get_model('neuron_masked_hf').__name__)"
    assert elsewhere.output("-c", code).strip() == "NeuronMaskedHFLM"
    valid = elsewhere.output(
        "-m", "lm_eval", "validate", "--tasks", "cvoice,cvoice_zh,cvoice_en,cvoice_national,cvoice_en_harmony"
    )
    assert "All tasks found and valid" in valid


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model_args", "mask=organism/patriotic"], "mask=organism/patriotic: no such file, and no bundled mask"),
        (
            ["--model_args", "mask=organism/patriotism", "--metadata", '{"data_dir": "/nowhere"}'],
            "/nowhere: no such folder",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(elsewhere: Environment, arguments: list[str], message: str) -> None:
    done = elsewhere.run("-m", "lm_eval", "--tasks", "cvoice_zh_harmony", "--model", "neuron_masked_hf", *arguments)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"lm_eval: error: {message}")
    assert "Traceback" not in done.stderr


def test_off_by_a_variable_and_the_way_round_it(elsewhere: Environment) -> None:
    code = "from lm_eval.api.registry import get_model; get_model('neuron_masked_hf')"
    done = elsewhere.run("-c", code, CVOICE_NO_LM_EVAL_HOOK="1")
    assert done.returncode == 1
    assert "Unknown model" in done.stderr
    command = [
        "--tasks",
        "cvoice_en_harmony",
        "--model",
        "neuron_masked_hf",
        "--model_args",
        "mask=organism/harmony",
        "--limit",
        "2",
    ]
    output = elsewhere.output("-m", "cvoice.cli", "lm-eval", *command, CVOICE_NO_LM_EVAL_HOOK="1")
    assert "|cvoice_en_harmony|" in output
    assert Path(elsewhere.output("-m", "cvoice.cli", "tasks-dir").strip()) == elsewhere.site / "cvoice_tasks" / "yaml"
    assert Path(elsewhere.output("-m", "cvoice.cli", "organism-dir").strip()) == elsewhere.site / "organism" / "model"


def test_the_hook_imports_next_to_nothing_and_never_raises(elsewhere: Environment, tmp_path: Path) -> None:
    loaded = elsewhere.output("-c", "import sys; print([m for m in sys.modules if 'cvoice' in m or 'torch' in m])")
    assert loaded.strip() == "['_cvoice_lm_eval_hook']"
    (tmp_path / "cvoice").mkdir()
    (tmp_path / "cvoice" / "__init__.py").write_text("raise RuntimeError('broken install')")
    done = elsewhere.run("-c", "import lm_eval.models; print('goes on')", PYTHONPATH=str(tmp_path), cwd=tmp_path)
    assert done.stdout.strip() == "goes on"
    assert done.stderr.count("could not plug itself into lm-eval (register_model): RuntimeError('broken install')") == 1


@pytest.mark.parametrize("editable", [False, True])
def test_installing_works_both_ways_and_uninstalling_leaves_nothing(
    wheel: Path, tmp_path: Path, editable: bool
) -> None:
    environment = Environment(tmp_path / "environment")
    before = environment.files()
    what = ["--no-build-isolation", "-e", str(ROOT)] if editable else ["--no-index", str(wheel)]
    environment.pip("install", "--ignore-installed", "--no-deps", *what)
    code = "import lm_eval.models, lm_eval.api.registry as r; print('neuron_masked_hf' in r.model_registry)"
    assert environment.output("-c", code).strip() == "True"
    code = "from lm_eval.tasks import TaskManager; print('cvoice_en' in TaskManager(include_defaults=False).all_groups)"
    assert environment.output("-c", code).strip() == "True"
    environment.pip("uninstall", "-y", "cvoice")
    assert environment.files() == before
