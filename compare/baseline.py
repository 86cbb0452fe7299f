"""The scores that a candidate is held against: read from a results folder, or from a small file in a repository."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from compare.results import MUST_AGREE, SHOULD_AGREE, Model, ModelRun, Settings, differing, read_run, task_parts
from compare.samples import Numbers, TaskScores, read_task
from cvoice_foundation.errors import CVoiceError
from cvoice_foundation.files import write_whole

FORMAT = "cvoice-baseline"
VERSION = 1
METRIC = "acc"
"""What the gate looks at; a baseline file holds nothing else."""


@dataclass(frozen=True, slots=True)
class RunScores:
    """A model and the scores of its tasks, by the tasks' names."""

    model: Model
    tasks: Mapping[str, TaskScores]


def read_scores(run: ModelRun) -> RunScores:
    """Reads all samples of a run."""
    return RunScores(run.model, {name: read_task(task) for name, task in run.tasks.items()})


def load_scores(path: Path) -> RunScores:
    """The scores of a results folder or file of lm-eval, or of a baseline file.

    Args:
        path: A folder, a ``results_TIME.json``, or a file that :func:`write_baseline` wrote.

    Raises:
        CVoiceError: It is none of them.
    """
    if path.is_file():
        content = _content(path)
        if content is not None:
            return _from_baseline(path, content)
    scores = read_scores(read_run(path))
    without = sorted(name for name, task in scores.tasks.items() if not task.numbers.get(METRIC))
    if without:
        raise CVoiceError(
            f"{path}: no {METRIC} in the samples of {listed(without)}; run lm_eval without --predict_only, and with a "
            "--limit of 2 or more if any"
        )
    return scores


def write_baseline(scores: RunScores, path: Path) -> None:
    """Writes a baseline file: JSON with one line a task, sorted, and the same bytes for the same scores.

    Args:
        scores: Of one model.
        path: The file.
    """
    head = {
        "format": FORMAT,
        "version": VERSION,
        "cvoice": version("cvoice"),
        "metric": METRIC,
        "model": asdict(scores.model),
    }
    tasks = [f"  {json.dumps(name)}: {_dump(_task_line(task))}" for name, task in sorted(scores.tasks.items())]
    lines = [f"{json.dumps(key)}: {_dump(value)}" for key, value in head.items()]
    body = ",\n".join([*lines, '"tasks": {\n' + ",\n".join(tasks) + "\n}"])
    write_whole(path, "{\n" + body + "\n}\n")


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True)


def _task_line(task: TaskScores) -> dict[str, Any]:
    orders = sorted({key[4] for key in task.numbers[METRIC]})
    items: dict[str, list[float | None]] = {}
    for (_, _, _, item, order), number in task.numbers[METRIC].items():
        items.setdefault(item, [None] * len(orders))[orders.index(order)] = number
    return {
        "settings": asdict(task.settings),
        "items_sha256": task.items_sha256,
        "prompts_sha256": task.prompts_sha256,
        "orders": orders,
        METRIC: items,
    }


def _content(path: Path) -> dict[str, Any] | None:
    """What a baseline file holds; None for files of another format."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and content.get("format") == FORMAT else None


def _from_baseline(path: Path, content: Mapping[str, Any]) -> RunScores:
    if content.get("version") != VERSION:
        raise CVoiceError(
            f"{path}: a baseline file of version {content.get('version')!r}, this C-voice reads {VERSION}; "
            "write it again with cvoice baseline"
        )
    try:
        return RunScores(
            Model(**content["model"]),
            {name: _task(name, task) for name, task in content["tasks"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CVoiceError(
            f"{path}: not a whole baseline file ({type(error).__name__}: {error}); write it again with cvoice baseline"
        ) from None


def _task(name: str, task: Mapping[str, Any]) -> TaskScores:
    parts = task_parts(name)
    if parts is None:
        raise ValueError(f"no task is called {name!r}")
    family, language, value = parts
    numbers: Numbers = {
        (family, language, value, str(item), str(order)): float(number)
        for item, by_order in task[METRIC].items()
        for order, number in zip(task["orders"], by_order, strict=True)
        if number is not None
    }
    settings = Settings(**task["settings"])
    return TaskScores(
        name,
        family,
        language,
        value,
        settings,
        str(task["items_sha256"]),
        str(task["prompts_sha256"]),
        {METRIC: numbers},
    )


def refusals(left: TaskScores, right: TaskScores) -> list[str]:
    """Why two runs of a task cannot be compared; empty if they can."""
    reasons = differing(left.settings, right.settings, MUST_AGREE)
    if left.items_sha256 != right.items_sha256:
        reasons.append(f"items ({left.items_sha256[:12]} / {right.items_sha256[:12]})")
    elif left.prompts_sha256 != right.prompts_sha256 and not left.settings.chat_template:
        reasons.append(f"prompts ({left.prompts_sha256[:12]} / {right.prompts_sha256[:12]})")
    return reasons


def remarks(left: TaskScores, right: TaskScores) -> list[str]:
    """What differs between two runs of a task and may move scores a little."""
    notes = differing(left.settings, right.settings, SHOULD_AGREE)
    if left.prompts_sha256 != right.prompts_sha256 and left.settings.chat_template and right.settings.chat_template:
        notes.append(f"chat template's text ({left.prompts_sha256[:12]} / {right.prompts_sha256[:12]})")
    return notes


def paired_tasks(baseline: RunScores, candidate: RunScores) -> tuple[list[tuple[TaskScores, TaskScores]], list[str]]:
    """The tasks of both runs side by side.

    Args:
        baseline: All of its tasks must be in the candidate.
        candidate: May have more.

    Returns:
        (baseline, candidate) a task, and remarks on what differs, each once.

    Raises:
        CVoiceError: A task is missing or cannot be compared.
    """
    missing = sorted(baseline.tasks.keys() - candidate.tasks.keys())
    if missing:
        raise CVoiceError(
            f"the candidate has no {listed(missing)}, which the baseline has; run the same --tasks for both"
        )
    more = sorted(candidate.tasks.keys() - baseline.tasks.keys())
    notes = [f"not compared, since the baseline has none: {listed(more)}"] if more else []
    pairs = []
    for name, left in sorted(baseline.tasks.items()):
        right = candidate.tasks[name]
        reasons = refusals(left, right)
        if reasons:
            raise CVoiceError(
                f"{name} cannot be compared, baseline and candidate differ in {', '.join(reasons)}; "
                "run both with the same items and settings"
            )
        notes += [f"baseline and candidate differ in {note}" for note in remarks(left, right)]
        pairs.append((left, right))
    return pairs, list(dict.fromkeys(notes))


def listed(names: Sequence[str], limit: int = 4) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
