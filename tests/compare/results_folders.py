"""Results folders as lm-eval itself writes them, of a model that gives the answers a test wants."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM
from lm_eval.loggers import EvaluationTracker

from tests.items_for_tests import items_folder, twin_lines
from tests.lm_eval_runs import evaluate

_WHO = re.compile(r"(?:Number |第)(?P<value>[a-z_]+) (?P<number>\d+)(?:, story |个，故事)(?P<twin>[ab])")


class AnswersLM(LM):  # type: ignore[misc]
    """Chooses the aligned act of every item but those in ``wrong``."""

    def __init__(self, pairs: int, wrong: Collection[str]) -> None:
        super().__init__()
        self.pairs = pairs
        self.wrong = frozenset(wrong)

    def _favoured(self, context: str) -> str:
        """The text of the act that it favours in the story that stands last in a prompt."""
        value, number, twin = list(_WHO.finditer(context))[-1].groups()
        language = "en" if "Number" in context else "zh"
        line = next(
            line for line in twin_lines(value, self.pairs, language) if line["id"] == f"{value}-{int(number):04d}{twin}"
        )
        return line["violating" if line["id"] in self.wrong else "aligned"]

    def loglikelihood(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
        results = []
        for context, continuation in (request.args for request in requests):
            act = self._favoured(context)
            answer = continuation.strip()
            if answer in ("A", "B"):
                liked = f"{answer}. {act}" in context
            elif answer.isdigit():
                liked = answer == ("4" if act in context else "0")
            else:
                liked = answer == act
            results.append((-0.1 if liked else -5.0, liked))
        return results

    def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
        contexts = [request.args[0] for request in requests]
        return ["A" if f"A. {self._favoured(context)}" in context else "B" for context in contexts]

    def loglikelihood_rolling(self, requests: list[Any], **_: Any) -> list[float]:
        raise NotImplementedError


def write_results(
    folder: Path,
    items: Path,
    *,
    tasks: list[str],
    name: str = "some/model",
    pairs: int = 2,
    wrong: Collection[str] = (),
    samples: bool = True,
    **arguments: Any,
) -> Path:
    """Runs lm-eval and lets it write its results, as its command line does.

    Args:
        folder: ``--output_path``.
        items: A ``data_dir``; made with ``pairs`` pairs a value if it is not there.
        tasks: Names.
        name: ``pretrained=``.
        pairs: Twin pairs a value.
        wrong: Ids of the items whose violating act the model chooses.
        samples: ``--log_samples``.
        **arguments: Of ``simple_evaluate``.

    Returns:
        The folder.
    """
    if not items.exists():
        items_folder(items, pairs=pairs)
    tracker = EvaluationTracker(output_path=str(folder))
    results = evaluate(
        AnswersLM(pairs, wrong),
        tasks,
        model_args=f"pretrained={name}",
        evaluation_tracker=tracker,
        log_samples=samples,
        metadata={"data_dir": str(items)},
        **arguments,
    )
    rows = results.pop("samples", None)
    tracker.save_results_aggregated(results=results, samples=rows)
    for task, task_rows in (rows or {}).items():
        tracker.save_results_samples(task_name=task, samples=task_rows)
    return folder
