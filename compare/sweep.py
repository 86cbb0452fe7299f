"""Many masks on one loaded model: every run's scores, document by document, kept as a file each.

The model is loaded and the requests are built once; masks are put on and taken off in place, to the bit. A sweep that
was interrupted goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from compare.passages import Passages, perplexities, read_passages
from compare.results import task_parts
from compare.runs import BASELINE, Answer, Asked, Run, Settings, Texts, check_asked_alike
from compare.samples import Numbers, numbers_of, sample_of
from cvoice_foundation.errors import CVoiceError
from cvoice_foundation.files import output_folder
from cvoice_tasks.yaml import FOLDER
from intervention.ablation import ablate
from intervention.activity import ActivityWatch
from intervention.mask import NeuronMask
from intervention.neuron_mask_lm import NeuronMaskedHFLM

KEPT_METRICS = ("acc", "margin", "twin_acc")
_LETTERED = ("letters", "gen")


def sweep(
    settings: Settings,
    masks: Sequence[NeuronMask],
    out: Path,
    *,
    device: str | None = None,
    progress: bool = True,
) -> list[Run]:
    """Runs the baseline and every mask.

    Args:
        settings: What the runs share.
        masks: In this order; their names (``value``) must differ.
        out: Folder; runs lie in its ``runs``.
        device: A torch device; the GPU if there is one.
        progress: Whether to show a progress bar with the time left.

    Returns:
        The baseline first.

    Raises:
        CVoiceError: Two masks have one name, a task is not known, a mask does not fit, ``out`` holds runs of other
            settings or items, or this is one of several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise CVoiceError("a sweep runs in one process; start it without torchrun, accelerate launch or mpirun")
    names = [mask.value for mask in masks]
    if twice := {name for name in names if names.count(name) > 1}:
        raise CVoiceError(f"two masks are named {min(twice)!r}; the name in a mask's header tells runs apart")
    if BASELINE in names:
        raise CVoiceError(f"a mask is named {BASELINE!r}, as the run without a mask is; give it another name")
    folder = output_folder(output_folder(out) / "runs")
    jobs: list[NeuronMask | None] = [None, *masks]
    paths = [folder / f"{BASELINE if mask is None else mask.value}.json" for mask in jobs]
    done = [Run.load(path, settings, mask) for path, mask in zip(paths, jobs, strict=True)]
    runner = None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task("Evaluating", total=sum(run is None for run in done))
        for place, mask in enumerate(jobs):
            if done[place] is not None:
                continue
            bar.update(task, description=f"Evaluating {BASELINE if mask is None else mask.value}")
            runner = runner or _Runner(settings, device)
            run = runner.run(mask)
            if done[0] is not None:
                check_asked_alike(paths[place], run, done[0])
            run.save(paths[place], settings)
            done[place] = run
            bar.advance(task)
    runs = [run for run in done if run is not None]
    for path, run in zip(paths, runs, strict=True):
        check_asked_alike(path, run, runs[0])
    return runs


class _Runner:
    """A loaded model and its tasks."""

    def __init__(self, settings: Settings, device: str | None) -> None:
        self._settings = settings
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        arguments: dict[str, Any] = {"batch_size": settings.batch_size, "dtype": settings.dtype, "device": place}
        if settings.revision is not None:
            arguments["revision"] = settings.revision
        self._lm = NeuronMaskedHFLM(mask=None, pretrained=settings.model, **arguments)
        # One bar for the sweep, instead of lm-eval's for every run.
        for kind in ("loglikelihood", "generate_until"):
            setattr(self._lm, kind, functools.partial(getattr(self._lm, kind), disable_tqdm=True))
        self._tasks = _load_tasks(settings)
        parts = [task_parts(task) for task in self._tasks["tasks"]]
        folder = None if settings.data_dir is None else Path(settings.data_dir)
        self._passages: Passages = read_passages({part[1] for part in parts if part}, folder, settings.limit)

    def run(self, mask: NeuronMask | None) -> Run:
        """Evaluates with a mask in force, or without."""
        if mask is None:
            info = self._lm.get_model_info()
            loaded = {key: info.get(f"model_{key}") for key in ("dtype", "revision", "sha", "num_parameters")}
            run = self._evaluate(BASELINE, None)
            return replace(run, loaded={key: None if told is None else str(told) for key, told in loaded.items()})
        with ablate(self._lm.model, mask, self._settings.mode, self._settings.strength) as ablation:
            watch = ActivityWatch(ablation.layers)
            try:
                run = self._evaluate(mask.value, mask.sha256)
            finally:
                watch.remove()
        return replace(run, texts={}, never_active=watch.never_active)

    def _evaluate(self, name: str, sha256: str | None) -> Run:
        results = evaluate(
            self._lm,
            self._tasks,
            limit=self._settings.limit,
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=self._settings.chat,
            fewshot_as_multiturn=self._settings.chat,
        )
        assert results is not None
        passages = perplexities(self._lm, self._passages)
        identities = {task: _sha256(_identities(rows)) for task, rows in results["samples"].items()}
        if passages:
            identities["neutral passages"] = _sha256(" ".join([*key, text]) for key, text in self._passages.items())
        numbers: dict[str, Numbers] = {metric: {} for metric in KEPT_METRICS}
        others: dict[str, Numbers] = {}
        chosen: dict[Asked, Answer] = {}
        texts: dict[Asked, Texts] = {}
        for task, rows in results["samples"].items():
            parts = task_parts(task)
            if parts is None:
                others[task] = _first_numbers(task, rows)
                continue
            samples = [sample_of(parts[0], row) for row in rows]
            for metric, found in numbers_of(*parts, samples).items():
                if metric in numbers:
                    numbers[metric].update(found)
            if parts[0] in _LETTERED:
                for row, sample in zip(rows, samples, strict=True):
                    asked = (parts[0], sample.item, sample.language, sample.order)
                    chosen[asked] = _free_answer(row) if parts[0] == "gen" else (_letter(row), "")
                    doc = row["doc"]
                    texts[asked] = (str(doc["story"]), str(doc["option_a"]), str(doc["option_b"]))
        return Run(name, sha256, numbers, others, chosen, texts, passages=passages, asked=identities)


def _load_tasks(settings: Settings) -> Any:
    metadata = None if settings.data_dir is None else {"data_dir": settings.data_dir}
    ours = all(task.startswith("cvoice") for task in settings.tasks)
    # lm-eval's own fourteen thousand YAML files take seconds to look through.
    manager = TaskManager(include_path=str(FOLDER), include_defaults=not ours, metadata=metadata)
    unknown = [task for task in settings.tasks if task not in manager.all_tasks]
    if unknown:
        raise CVoiceError(f"--tasks names {unknown[0]!r}, which lm-eval does not know; `lm_eval ls tasks` lists them")
    loaded = manager.load(list(settings.tasks))
    if settings.shots is not None:
        for task in loaded["tasks"].values():
            task.set_config(key="num_fewshot", value=settings.shots)
    for task in loaded["tasks"].values():
        _build_once(task)
    return loaded


def _build_once(task: Any) -> None:
    """Has a task keep its requests: lm-eval builds them anew, with a progress bar a task, at every evaluation."""
    build = task.build_all_requests
    built: list[Any] = []

    def build_all_requests(**arguments: Any) -> None:
        if not built:
            # Its bar cannot be switched off, and there is one of the whole sweep.
            with contextlib.redirect_stderr(io.StringIO()):
                build(**arguments)
            built.extend(task.instances)
        for request in built:
            request.resps, request.filtered_resps = [], {}

    task.build_all_requests = build_all_requests


def _identities(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return sorted(f"{row['doc_id']} {row['doc_hash']} {row['prompt_hash']}" for row in rows)


def _sha256(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _letter(row: Mapping[str, Any]) -> str:
    """Which of two lettered options has the higher log-likelihood; ``=`` for an exact tie."""
    first, second = (float(response[0]) for response in row["filtered_resps"])
    return "=" if first == second else "A" if first > second else "B"


def _free_answer(row: Mapping[str, Any]) -> Answer:
    """What a generated answer chose, by the metrics of its task, and its text."""
    aligned = "AB"[int(row["doc"]["gold"])]
    readings = {"acc": aligned, "violating": "AB".replace(aligned, ""), "refused": "refused"}
    return next((reading for name, reading in readings.items() if row[name]), "unparsed"), str(row["filtered_resps"][0])


def _first_numbers(task: str, rows: Sequence[Mapping[str, Any]]) -> Numbers:
    """A number a document of any task: that of its first metric which gives one."""
    for metric in rows[0]["metrics"] if rows else ():
        if isinstance(rows[0].get(metric), (int, float)):
            return {("other", "", task, str(row["doc_id"]), ""): float(row[metric]) for row in rows}
    return {}
