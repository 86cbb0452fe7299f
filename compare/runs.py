"""One run of a sweep: its scores, document by document, in a file of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from compare.samples import Numbers
from cvoice_foundation.errors import CVoiceError
from cvoice_foundation.files import write_whole
from intervention.mask import NeuronMask

BASELINE = "baseline"
Asked = tuple[str, str, str, str]
"""(family, item id, language, order) of a document with two lettered options."""
Answer = tuple[str, str]
"""What was chosen (``A``, ``B``, ``=`` for an exact tie, ``refused``, ``unparsed``), and the text of a free answer."""
Texts = tuple[str, str, str]
"""Story, option A and option B of a document."""


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
        passages: Perplexity of each neutral passage; empty where there are none.
        asked: Task -> SHA-256 of its documents and prompts; runs that were asked other things are not compared.
        loaded: What was loaded (dtype, commit, ...); of the baseline alone.
    """

    name: str
    mask_sha256: str | None
    numbers: Mapping[str, Numbers]
    others: Mapping[str, Numbers] = field(default_factory=dict)
    chosen: Mapping[Asked, Answer] = field(default_factory=dict)
    texts: Mapping[Asked, Texts] = field(default_factory=dict)
    never_active: int = 0
    passages: Numbers = field(default_factory=dict)
    asked: Mapping[str, str] = field(default_factory=dict)
    loaded: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def _by_cell(self) -> dict[tuple[str, str, str], Numbers]:
        found: dict[tuple[str, str, str], Numbers] = {}
        for metric, numbers in self.numbers.items():
            for key, number in numbers.items():
                found.setdefault((metric, key[0], key[2]), {})[key] = number
        return found

    def of_cell(self, metric: str, family: str, value: str) -> Numbers:
        """A metric's numbers of one reading and value; empty where it was not asked."""
        return self._by_cell.get((metric, family, value), {})

    def save(self, path: Path, settings: Settings) -> None:
        """Writes the run, whole or not at all."""
        content = {
            "format": "cvoice-run",
            "version": 2,
            "settings_sha256": settings.sha256,
            "name": self.name,
            "mask_sha256": self.mask_sha256,
            "never_active": self.never_active,
            "numbers": {metric: _packed(numbers) for metric, numbers in self.numbers.items()},
            "others": {task: _packed(numbers) for task, numbers in self.others.items()},
            "passages": _packed(self.passages),
            "asked": dict(self.asked),
            "loaded": dict(self.loaded),
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
            if content["version"] != 2:
                raise ValueError(f"of version {content['version']}, not 2")
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
                _unpacked(content["passages"]),
                content["asked"],
                content["loaded"],
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


def check_asked_alike(path: Path, run: Run, baseline: Run) -> None:
    """Compares what two runs were asked: a sweep goes on only where items, prompts and passages are still the same.

    Args:
        path: Of the run's file, for the message.
        run: A run with a mask.
        baseline: The run without.

    Raises:
        CVoiceError: A task's documents or prompts are not the same.
    """
    tasks = sorted(run.asked.keys() | baseline.asked.keys())
    other = next((task for task in tasks if run.asked.get(task) != baseline.asked.get(task)), None)
    if other is not None:
        raise CVoiceError(
            f"{path}: {other} asked other things than in {BASELINE}.json beside it (its items or prompts changed in "
            "between); choose another --out"
        )
