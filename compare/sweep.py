"""Many masks on one loaded model: every run's scores, document by document, kept as a file each.

The model is loaded and the tasks are built once; masks are put on and taken off in place, to the bit. A sweep that was
interrupted goes on where it stopped.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from compare.results import task_parts
from compare.samples import Numbers, numbers_of, sample_of
from cvoice_foundation.errors import CVoiceError
from cvoice_foundation.files import output_folder, write_whole
from cvoice_tasks.yaml import FOLDER
from intervention.ablation import ablate
from intervention.activity import ActivityWatch
from intervention.mask import NeuronMask
from intervention.neuron_mask_lm import NeuronMaskedHFLM

BASELINE = "baseline"
KEPT_METRICS = ("acc", "margin", "twin_acc")
Asked = tuple[str, str, str, str]
"""(family, item id, language, order) of a document with two lettered options."""
Answer = tuple[str, str]
"""What was chosen (``A``, ``B``, ``=`` for an exact tie, ``refused``, ``unparsed``), and the text of a free answer."""
Texts = tuple[str, str, str]
"""Story, option A and option B of a document."""
_LETTERED = ("letters", "gen")


@dataclass(frozen=True, slots=True)
class Settings:
    """What every run of a sweep shares; runs of other settings are not mixed with these.

    Attributes:
        model: Name or path.
        tasks: As lm-eval takes them.
        mode: Of the masks.
        strength: Of the masks.
        batch_size: Of the evaluation; scores move with it in their last digits.
        dtype: Of the model.
        limit: Documents a task, or None.
        chat: Whether the chat template is applied.
        shots: Examples before the question.
        data_dir: Folder of outside items, or None.
        revision: Of the model.
    """

    model: str
    tasks: tuple[str, ...]
    mode: str = "zero"
    strength: float | None = None
    batch_size: int = 8
    dtype: str = "auto"
    limit: int | None = None
    chat: bool = False
    shots: int | None = None
    data_dir: str | None = None
    revision: str | None = None

    @property
    def sha256(self) -> str:
        """Identity of the settings."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Run:
    """Scores of one run.

    Attributes:
        name: ``baseline``, or the mask's.
        mask_sha256: Of its mask; None for the baseline.
        numbers: Metric -> a number a document, item or pair (see :mod:`compare.samples`), of C-voice's tasks.
        others: Task -> a number a document, of any further task: its first numeric metric.
        chosen: The answer to each document that asks for a choice between lettered options.
        texts: What these documents said; of the baseline alone.
        never_active: Masked neurons that were zero on every token anyway.
    """

    name: str
    mask_sha256: str | None
    numbers: Mapping[str, Numbers]
    others: Mapping[str, Numbers] = field(default_factory=dict)
    chosen: Mapping[Asked, Answer] = field(default_factory=dict)
    texts: Mapping[Asked, Texts] = field(default_factory=dict)
    never_active: int = 0

    def save(self, path: Path, settings: Settings) -> None:
        """Writes the run, whole or not at all."""
        content = {
            "format": "cvoice-run",
            "version": 1,
            "settings_sha256": settings.sha256,
            "name": self.name,
            "mask_sha256": self.mask_sha256,
            "never_active": self.never_active,
            "numbers": {metric: _packed(numbers) for metric, numbers in self.numbers.items()},
            "others": {task: _packed(numbers) for task, numbers in self.others.items()},
            "chosen": [[*key, *answer] for key, answer in self.chosen.items()],
            "texts": [[*key, *texts] for key, texts in self.texts.items()],
        }
        write_whole(path, json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n")

    @classmethod
    def load(cls, path: Path, settings: Settings, mask: NeuronMask | None) -> Run | None:
        """A finished run; None where there is none.

        Raises:
            CVoiceError: It is of other settings, or of another mask of that name.
        """
        try:
            content = json.loads(path.read_text("utf-8"))
            if content["settings_sha256"] != settings.sha256:
                raise CVoiceError(f"{path}: a run with other settings (model, tasks, mode, ...); choose another --out")
            if content["mask_sha256"] != (mask and mask.sha256):
                raise CVoiceError(f"{path}: a run of another mask of that name; choose another --out")
            return cls(
                content["name"],
                content["mask_sha256"],
                {metric: _unpacked(rows) for metric, rows in content["numbers"].items()},
                {task: _unpacked(rows) for task, rows in content["others"].items()},
                {tuple(row[:4]): tuple(row[4:]) for row in content["chosen"]},
                {tuple(row[:4]): tuple(row[4:]) for row in content["texts"]},
                content["never_active"],
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, CVoiceError):
                raise
            raise CVoiceError(f"{path}: cannot be read as a run ({error}); delete it and run again") from None


def _packed(numbers: Numbers) -> list[list[Any]]:
    return [[*key, number] for key, number in numbers.items()]


def _unpacked(rows: Sequence[Sequence[Any]]) -> Numbers:
    return {tuple(row[:-1]): float(row[-1]) for row in rows}


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
        CVoiceError: Two masks have one name, a task is not known, a mask does not fit, or ``out`` holds runs of other
            settings.
    """
    names = [mask.value for mask in masks]
    if twice := {name for name in names if names.count(name) > 1}:
        raise CVoiceError(f"two masks are named {min(twice)!r}; the name in a mask's header tells runs apart")
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
            run.save(paths[place], settings)
            done[place] = run
            bar.advance(task)
    return [run for run in done if run is not None]


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

    def run(self, mask: NeuronMask | None) -> Run:
        """Evaluates with a mask in force, or without."""
        if mask is None:
            return self._evaluate(BASELINE, None)
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
        return Run(name, sha256, numbers, others, chosen, texts)


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
    return loaded


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
