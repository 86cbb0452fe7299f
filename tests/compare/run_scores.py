"""Scores of runs that never ran, for tests of what is made of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from compare.baseline import RunScores
from compare.results import Model, Settings
from compare.samples import Numbers, TaskScores

SETTINGS = Settings("1.0", 0, False, None, None, "8", "torch.float32", "0.4.13", "5.23.0")


def run_scores(
    pairs: int,
    wrong: Collection[str] = (),
    *,
    name: str = "some/model",
    values: Sequence[str] = ("integrity", "freedom"),
    languages: Sequence[str] = ("zh", "en"),
    settings: Settings = SETTINGS,
    prompts: str = "prompts",
    items: str = "items",
) -> RunScores:
    """A model that chooses the aligned act of all items but those in ``wrong``, named as pair or item."""
    tasks = {}
    for language in languages:
        for value in values:
            numbers: Numbers = {
                ("letters", language, value, f"{pair}{twin}", order): float(
                    pair not in wrong and pair + twin not in wrong
                )
                for pair in (f"{value}-{number:04d}" for number in range(1, pairs + 1))
                for twin in "ab"
                for order in "01"
            }
            task = f"cvoice_{language}_{value}"
            tasks[task] = TaskScores(
                task, "letters", language, value, settings, items + value, prompts + value, {"acc": numbers}
            )
    return RunScores(Model(name), tasks)


def first_pairs(value: str, count: int) -> set[str]:
    """The names of the first pairs of a value."""
    return {f"{value}-{number:04d}" for number in range(1, count + 1)}


def with_settings(run: RunScores, **changes: object) -> RunScores:
    """The same scores, made in other settings."""
    tasks = {
        name: replace(task, settings=replace(task.settings, **changes))  # type: ignore[arg-type]
        for name, task in run.tasks.items()
    }
    return RunScores(run.model, tasks)
