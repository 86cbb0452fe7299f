"""Reads what lm-eval 0.4.13 leaves in a results folder: ``results_TIME.json`` and ``samples_TASK_TIME.jsonl``.

One folder may hold several models and several runs of each; a model's task is taken from its newest run.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cvoice_foundation.errors import CVoiceError

FAMILIES: tuple[str, ...] = ("letters", "cloze", "gen", "recog", "likert")
"""The ways of reading a choice, as they stand in task names; letters has no name of its own there."""

WRITTEN_BY = "0.4.13"
"""The release of lm-eval whose files were read in the tests."""

_TIME = re.compile(r"_(?P<time>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.json")
_TASK = re.compile(r"cvoice(?:_(?P<family>cloze|gen|recog|likert))?_(?P<language>zh|en)_(?P<value>\w+)")
_NAMED_ARGUMENTS = ("", "pretrained", "model", "peft", "delta", "path", "engine", "mask", "mode", "strength")
_PARTS = ("results", "configs", "versions", "n-shot", "n-samples", "config")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """What must be the same, or be told, where two runs of a task are compared.

    Attributes:
        version: Of the task.
        shots: Examples before the question.
        chat_template: Whether one was applied.
        system_instruction: Hash of it, or None.
        limit: ``--limit``, or None.
        batch_size: As given.
        dtype: Of the model.
        lm_eval: Release of lm-eval.
        transformers: Release of transformers.
    """

    version: str
    shots: int
    chat_template: bool
    system_instruction: str | None
    limit: float | None
    batch_size: str
    dtype: str
    lm_eval: str
    transformers: str


MUST_AGREE: tuple[str, ...] = ("version", "shots", "chat_template", "system_instruction", "limit")
"""Settings without which numbers are not of one thing."""
SHOULD_AGREE: tuple[str, ...] = ("batch_size", "dtype", "lm_eval", "transformers")
"""Settings that move scores in their last digits; a difference is told beside them."""


@dataclass(frozen=True, slots=True)
class TaskRun:
    """One task of one model: where its documents' results lie, and how they were made."""

    name: str
    family: str
    language: str
    value: str
    settings: Settings
    documents: int
    results: Path
    samples: Path


@dataclass(frozen=True, slots=True)
class Model:
    """Who answered. Models are the same if name, arguments and the mask's content and mode are.

    Attributes:
        name: As lm-eval names it: the model, followed by its mask's hash where there is one.
        arguments: What else stood in ``--model_args``, sorted: ``dtype=bfloat16,revision=v2``.
        mask: What ``mask=`` said, or None where nothing was masked.
        mask_sha256: Identity of the mask.
        mask_mode: ``zero``, ``mean``, ``scale`` or ``add``.
        mask_strength: Of scale and add.
        mask_neurons: How many neurons are masked.
    """

    name: str
    arguments: str = ""
    mask: str | None = field(default=None, compare=False)
    mask_sha256: str | None = None
    mask_mode: str | None = None
    mask_strength: float | None = None
    mask_neurons: int = field(default=0, compare=False)

    @property
    def label(self) -> str:
        """Name and arguments, without the mask's hash."""
        return self.name.partition("+mask-")[0] + (f" ({self.arguments})" if self.arguments else "")

    @property
    def mask_label(self) -> str:
        """Mask, mode and size; empty where nothing was masked."""
        if self.mask_sha256 is None:
            return ""
        strength = "" if self.mask_strength is None else f" {self.mask_strength:g}"
        return f"{self.mask}, {self.mask_mode}{strength}, {self.mask_neurons} neurons"

    @property
    def is_organism(self) -> bool:
        """Whether it is the bundled model, which was trained on the task's own kind of stories."""
        base = self.name.partition("+mask-")[0].rstrip("/\\")
        return base == "organism" or bool(re.search(r"(?:^|[/\\])organism[/\\]model$", base))


@dataclass(frozen=True, slots=True)
class ModelRun:
    """A model with its tasks, each from the newest run that has it."""

    model: Model
    tasks: Mapping[str, TaskRun] = field(default_factory=dict)


def task_parts(name: str) -> tuple[str, str, str] | None:
    """Family, language and value of a leaf task's name; None for other tasks and for groups."""
    match = _TASK.fullmatch(name)
    return (match["family"] or "letters", match["language"], match["value"]) if match else None


def read_runs(path: Path) -> list[ModelRun]:
    """Finds the models of a results folder, or of one results file.

    Args:
        path: A folder that lm-eval wrote to (``--output_path``), at any depth; or one ``results_TIME.json`` in it, to
            take that run and no newer one.

    Returns:
        Models in the order of their names.

    Raises:
        CVoiceError: There is no such folder, no results in it, or a file is cut off, not lm-eval's, of another
            release, of other benchmarks, or without samples.
    """
    found: dict[Model, dict[str, TaskRun]] = {}
    others: set[str] = set()
    files = _results_files(path)
    for file in files:
        content = _load(file)
        try:
            model, tasks = _read(file, content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CVoiceError(
                f"{file}: not as lm-eval {WRITTEN_BY} writes it ({type(error).__name__}: {error}); run lm_eval again"
            ) from None
        others |= content["n-samples"].keys() - tasks.keys()
        if tasks:
            found.setdefault(model, {}).update(tasks)
    if not found:
        held = f"holds {', '.join(sorted(others)[:5])}" if others else "holds no tasks"
        raise CVoiceError(f"{path}: {held}, none of them C-voice's; run lm_eval --tasks cvoice_zh --log_samples")
    for tasks in found.values():
        for task in tasks.values():
            if not task.samples.is_file():
                raise CVoiceError(
                    f"{task.results}: {task.samples.name} is not beside it; paired statistics need every document: "
                    "run lm_eval again with --log_samples"
                )
    return [
        ModelRun(model, dict(sorted(found[model].items())))
        for model in sorted(found, key=lambda model: (model.name, model.arguments, model.mask_label))
    ]


def read_run(path: Path) -> ModelRun:
    """The one model of a results folder or file.

    Raises:
        CVoiceError: As :func:`read_runs`, or there are several models.
    """
    runs = read_runs(path)
    if len(runs) > 1:
        names = "; ".join(", ".join(filter(None, (run.model.label, run.model.mask_label))) for run in runs)
        raise CVoiceError(f"{path}: holds {len(runs)} models ({names}); give the folder or results file of one")
    return runs[0]


def differing(left: Settings, right: Settings, names: Sequence[str]) -> list[str]:
    """The named settings that are not the same, as ``name (left / right)``."""
    return [
        f"{name} ({getattr(left, name)} / {getattr(right, name)})"
        for name in names
        if getattr(left, name) != getattr(right, name)
    ]


def _time(path: Path) -> str:
    match = _TIME.search(path.name)
    return match["time"] if match else ""


def _results_files(path: Path) -> list[Path]:
    """Results files, oldest first."""
    if path.is_file():
        if not _time(path):
            raise CVoiceError(f"{path}: not named as lm-eval names results (results_2026-01-31T12-00-00.000000.json)")
        return [path]
    if not path.is_dir():
        raise CVoiceError(f"{path}: no such folder or file; give what lm_eval --output_path was given")
    files = [file for file in path.rglob("*.json") if _time(file)]
    if not files:
        raise CVoiceError(f"{path}: no results_*.json in it; run lm_eval with --output_path {path} --log_samples")
    return sorted(files, key=lambda file: (_time(file), str(file)))


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CVoiceError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise CVoiceError(f"{path}: cut off or not JSON; run lm_eval again, or remove the file") from None
    missing = [part for part in _PARTS if not isinstance(content, dict) or not isinstance(content.get(part), dict)]
    if missing:
        version = content.get("lm_eval_version") if isinstance(content, dict) else None
        by = f"written by lm-eval {version}" if version else "not a results file of lm-eval"
        raise CVoiceError(f"{path}: {by}: {', '.join(missing)} missing; run lm_eval {WRITTEN_BY} or newer again")
    if content.get("lm_eval_version") != WRITTEN_BY:
        _log.warning(
            "%s: written by lm-eval %s; what is read here was checked against %s",
            path,
            content.get("lm_eval_version"),
            WRITTEN_BY,
        )
    return dict(content)


def _read(file: Path, content: Mapping[str, Any]) -> tuple[Model, dict[str, TaskRun]]:
    """The model of a results file, and our tasks in it."""
    tasks = {}
    for name, samples in content["n-samples"].items():
        parts = task_parts(name)
        if parts is None:
            continue
        family, language, value = parts
        tasks[name] = TaskRun(
            name=name,
            family=family,
            language=language,
            value=value,
            settings=_settings(content, name),
            documents=int(samples["effective"]),
            results=file,
            samples=file.with_name(f"samples_{name}_{_time(file)}.jsonl"),
        )
    return _model(content), tasks


def _model(content: Mapping[str, Any]) -> Model:
    config = content["config"]
    name = str(content.get("model_name") or config.get("model") or "unnamed")
    arguments = _arguments(config.get("model_args"))
    if not config.get("mask_sha256"):
        return Model(name, arguments)
    return Model(
        name,
        arguments,
        mask=str(config.get("mask")),
        mask_sha256=str(config["mask_sha256"]),
        mask_mode=str(config.get("mask_mode")),
        mask_strength=config.get("mask_strength"),
        mask_neurons=int(config.get("mask_neurons") or 0),
    )


def _arguments(given: Any) -> str:
    """Model arguments beyond those that :class:`Model` has by themselves."""
    parts = (
        [f"{key}={value}" for key, value in given.items()] if isinstance(given, dict) else str(given or "").split(",")
    )
    return ",".join(sorted(part for part in parts if part.partition("=")[0] not in _NAMED_ARGUMENTS))


def _settings(content: Mapping[str, Any], task: str) -> Settings:
    config = content["config"]
    return Settings(
        version=str(content["versions"].get(task)),
        shots=int(content["n-shot"].get(task) or 0),
        chat_template=bool(content.get("chat_template")),
        system_instruction=content.get("system_instruction_sha"),
        limit=None if config.get("limit") is None else float(config["limit"]),
        batch_size=str(config.get("batch_size")),
        dtype=str(config.get("model_dtype")),
        lm_eval=str(content.get("lm_eval_version")),
        transformers=str(content.get("transformers_version")),
    )
