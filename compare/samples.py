"""Reads the documents' results of a task: one number a document, item or pair for every metric."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from compare.paired import Key
from compare.results import Settings, TaskRun
from cvoice_foundation.errors import CVoiceError
from cvoice_foundation.files import read_json_lines
from cvoice_tasks import metrics, metrics_cloze, metrics_likert
from cvoice_tasks.items import pair_of

Numbers = dict[Key, float]
"""(family, language, value, item or pair, order) -> number; order is empty where there is none."""


class _Grouped(NamedTuple):
    """A metric that is counted over several documents: what they have in common, and how it is counted."""

    key: Callable[[str], str]
    counted: Callable[[Sequence[Any]], float]


def _item(item_id: str) -> str:
    return item_id


_BOTH_ORDERS: dict[str, _Grouped] = {
    "consistency": _Grouped(_item, metrics.consistency),
    "robust_acc": _Grouped(_item, metrics.robust_acc),
    "twin_acc": _Grouped(pair_of, metrics.twin_acc),
}
_GROUPED: dict[str, dict[str, _Grouped]] = {
    "letters": _BOTH_ORDERS,
    "recog": _BOTH_ORDERS,
    "gen": _BOTH_ORDERS,
    "cloze": {"twin_acc": _Grouped(pair_of, metrics_cloze.twin_acc)},
    "likert": {
        "acc": _Grouped(_item, metrics_likert.acc),
        "margin": _Grouped(_item, metrics_likert.margin),
        "likert_score": _Grouped(_item, metrics_likert.likert_score),
        "twin_acc": _Grouped(pair_of, metrics_likert.twin_acc),
    },
}

LIMITS: dict[str, float | None] = {"margin": None, "scale_bias": None, "likert_score": 100.0}
"""The most that a number can change where that is not 1; None where there is no limit."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a samples file.

    Attributes:
        item: Id.
        order: ``0`` or ``1``, the place of the aligned act (or which act is rated); empty where there is one document.
        value: Key of the value.
        language: ``zh`` or ``en``.
        metrics: What the task's ``process_results`` gave: numbers, or lists for what is counted over documents.
        doc_hash: lm-eval's hash of the document.
        prompt_hash: lm-eval's hash of the prompt with its examples.
    """

    item: str
    order: str
    value: str
    language: str
    metrics: Mapping[str, Any]
    doc_hash: str
    prompt_hash: str


@dataclass(frozen=True, slots=True)
class TaskScores:
    """A task's numbers, and what they were made of.

    Attributes:
        name: Of the task.
        family: letters, cloze, gen, recog or likert.
        language: ``zh`` or ``en``.
        value: Key of the value.
        settings: How the run was made.
        items_sha256: Hash of all documents, whatever their order in the file.
        prompts_sha256: Hash of all prompts, likewise.
        numbers: For each metric that the task has, its numbers.
    """

    name: str
    family: str
    language: str
    value: str
    settings: Settings
    items_sha256: str
    prompts_sha256: str
    numbers: Mapping[str, Numbers]


def cluster_of(key: Key) -> str:
    """The cluster of a number: its pair number, across orders, stories and languages."""
    return pair_of(key[3])


def read_samples(task: TaskRun) -> Iterator[Sample]:
    """Reads a samples file row by row.

    Args:
        task: Where it lies and how many documents it should hold.

    Yields:
        Rows in the file's order.

    Raises:
        CVoiceError: A row is not as lm-eval 0.4.13 writes it, is there twice, or some are missing.
    """
    seen: set[tuple[str, str]] = set()
    filters: set[str] = set()
    for number, row in read_json_lines(task.samples, "samples file"):
        sample = _sample(task, row, number)
        filters.add(str(row.get("filter")))
        if len(filters) > 1:
            raise CVoiceError(
                f"{task.samples}, line {number}: rows of the filters {' and '.join(sorted(filters))}; "
                "C-voice's tasks have one: use them unchanged"
            )
        if (sample.item, sample.order) in seen:
            raise CVoiceError(f"{task.samples}, line {number}: {sample.item} stands there twice in one order")
        seen.add((sample.item, sample.order))
        yield sample
    if len(seen) != task.documents:
        raise CVoiceError(
            f"{task.samples}: {len(seen)} documents where {task.results.name} counts {task.documents}; "
            "the file is cut off: run lm_eval again"
        )


def read_task(task: TaskRun) -> TaskScores:
    """All numbers of a task.

    Raises:
        CVoiceError: As :func:`read_samples`.
    """
    documents, prompts = [], []

    def noted() -> Iterator[Sample]:
        for sample in read_samples(task):
            documents.append(f"{sample.item} {sample.order} {sample.doc_hash}")
            prompts.append(f"{sample.item} {sample.order} {sample.prompt_hash}")
            yield sample

    numbers = numbers_of(task.family, task.language, task.value, noted())
    return TaskScores(
        task.name,
        task.family,
        task.language,
        task.value,
        task.settings,
        _sha256(documents),
        _sha256(prompts),
        numbers,
    )


def numbers_of(family: str, language: str, value: str, samples: Iterable[Sample]) -> dict[str, Numbers]:
    """The numbers of one task's samples, by metric.

    Args:
        family: letters, cloze, gen, recog or likert.
        language: Of the task.
        value: Of the task.
        samples: Its rows.
    """
    grouped = _GROUPED[family]
    numbers: defaultdict[str, Numbers] = defaultdict(dict)
    groups: defaultdict[tuple[str, str], list[Any]] = defaultdict(list)
    for sample in samples:
        for name, result in sample.metrics.items():
            if name in grouped:
                groups[name, grouped[name].key(sample.item)].append(result)
            elif isinstance(result, (int, float)):
                numbers[name][family, sample.language, sample.value, sample.item, sample.order] = float(result)
    for (name, group), results in groups.items():
        number = grouped[name].counted(results)
        if number == number:  # NaN: a --limit left a part of the item or pair, which is not counted
            numbers[name][family, language, value, group, ""] = number
    return dict(numbers)


def _sha256(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def sample_of(family: str, row: Mapping[str, Any]) -> Sample:
    """One of lm-eval's samples, as its evaluator returns them and writes them.

    Raises:
        KeyError, TypeError, ValueError: It is not one of a C-voice task.
    """
    doc = row["doc"]
    field = _ORDER_FIELD.get(family)
    return Sample(
        item=str(doc["id"]),
        order="" if field is None else str(int(doc[field])),
        value=str(doc["value"]),
        language=str(doc["language"]),
        metrics={
            name: _result(name, row[name], name in _GROUPED[family])
            for name in row["metrics"]
            if not str(name).endswith("_stderr")
        },
        doc_hash=str(row["doc_hash"]),
        prompt_hash=str(row["prompt_hash"]),
    )


_ORDER_FIELD = {"letters": "gold", "recog": "gold", "gen": "gold", "likert": "aligned"}


def _result(name: str, result: Any, grouped: bool) -> Any:
    """A metric's result of one document: a number, or for what is counted later a tuple of id and numbers."""
    if not grouped:
        return result
    item, *numbers = result
    if not isinstance(item, str) or not numbers or not all(isinstance(number, (int, float)) for number in numbers):
        raise ValueError(f"{name} is {result!r}")
    return (item, *numbers)


def _sample(task: TaskRun, row: Mapping[str, Any], number: int) -> Sample:
    try:
        return sample_of(task.family, row)
    except (KeyError, TypeError, ValueError) as error:
        raise CVoiceError(
            f"{task.samples}, line {number}: not a sample of {task.name} as lm-eval 0.4.13 writes it "
            f"({type(error).__name__}: {error}); run lm_eval again with --log_samples"
        ) from None
