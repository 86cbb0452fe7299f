"""Many models' results as one table: scores with intervals, and ranks that say how sure they are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from compare.baseline import RunScores, listed, read_scores, refusals, remarks
from compare.paired import Interval, bootstrap_interval, cluster_differences
from compare.results import FAMILIES, MUST_AGREE, Model, Settings, read_runs
from compare.samples import Numbers, TaskScores, cluster_of
from compare.significance import holm, sign_flip_ps
from cvoice_foundation.errors import CVoiceError
from cvoice_tasks.values import LANGUAGES, LEVELS, VALUES

METRICS: tuple[str, ...] = ("acc", "robust_acc", "twin_acc")
"""Shares of aligned choices: higher is better, 0 to 1."""

ORGANISM = "the organism has seen the answers; it is shown and never ranked"

_LEVEL_OF = {value.key: value.level for value in VALUES}


@dataclass(frozen=True, slots=True)
class Score:
    """One number of a model.

    Attributes:
        kind: overall, language, level or value.
        name: Which of that kind.
        documents: How many numbers it is the mean of: documents, items or pairs, as the metric is counted.
        clusters: Twin pair numbers.
        mean: The metric.
        low: Lower end of its interval, over pairs.
        high: Upper end.
        method: How the interval was made.
    """

    kind: str
    name: str
    documents: int
    clusters: int
    mean: float
    low: float
    high: float
    method: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A model in one way of reading a choice.

    Attributes:
        model: Who.
        source: Where its results lie.
        settings: Of its first task.
        rank: 1 is best; models of equal score share it. None where it is not ranked.
        rank_low: Best rank that is not excluded.
        rank_high: Worst rank that is not excluded.
        notes: Why it is not ranked, or what differs from the models that it is ranked with.
        scores: Overall first.
    """

    model: Model
    source: str
    settings: Settings
    rank: int | None
    rank_low: int | None
    rank_high: int | None
    notes: tuple[str, ...]
    scores: tuple[Score, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """The models of one way of reading a choice, ranked ones first.

    Attributes:
        family: letters, cloze, gen, recog or likert.
        metric: What is shown.
        alpha: One minus the level of intervals and of the ranks together.
        entries: By rank, then by score.
    """

    family: str
    metric: str
    alpha: float
    entries: tuple[Entry, ...]


def leaderboards(paths: Sequence[Path], *, metric: str = "acc", alpha: float = 0.05, seed: int = 0) -> list[Board]:
    """Reads results and ranks what can be ranked, a board for each family that they hold.

    Args:
        paths: Folders that lm-eval wrote to, or results files; each may hold several models.
        metric: One of :data:`METRICS`.
        alpha: One minus the level of the intervals.
        seed: Of the random draws.

    Returns:
        Boards in the order of :data:`compare.results.FAMILIES`.

    Raises:
        CVoiceError: A file cannot be read, or no task has the metric.
    """
    if metric not in METRICS:
        raise CVoiceError(f"there is no metric {metric!r} to rank by; choose one of {', '.join(METRICS)}")
    if not 0 < alpha < 0.5:
        raise CVoiceError(f"alpha is {alpha}; it lies between 0 and 0.5, usually 0.05")
    found = [(str(path), run) for path in paths for run in read_runs(path)]
    console = Console(stderr=True)
    read = [
        (source, read_scores(run)) for source, run in track(found, "reading samples", console=console, transient=True)
    ]
    boards = [
        board(family, runs, metric=metric, alpha=alpha, seed=seed)
        for family in FAMILIES
        if (runs := list(_of_family(read, family, metric)))
    ]
    if not boards:
        raise CVoiceError(f"no task in these results has {metric}; items that are no twins have no twin_acc")
    return boards


def board(
    family: str, runs: Sequence[tuple[str, RunScores]], *, metric: str = "acc", alpha: float = 0.05, seed: int = 0
) -> Board:
    """One board from scores at hand; see :func:`leaderboards`."""
    reference = _reference(runs)
    why = [_why_not(run, reference) for _, run in runs]
    ranked = [index for index, reasons in enumerate(why) if not reasons]
    numbers = [_numbers(runs[index][1].tasks.values(), metric) for index in ranked]
    ranks = dict(zip(ranked, _ranks(numbers, alpha, seed), strict=True))
    entries = []
    for index, (source, run) in enumerate(runs):
        notes = why[index] or _remarks(run, reference)
        rank, low, high = ranks.get(index, (None, None, None))
        settings = next(iter(run.tasks.values())).settings
        scores = tuple(_scores(run, metric, alpha, seed))
        entries.append(Entry(run.model, source, settings, rank, low, high, tuple(notes), scores))
    entries.sort(key=lambda entry: (entry.rank is None, entry.rank or 0, -entry.scores[0].mean, entry.model.name))
    return Board(family, metric, alpha, tuple(entries))


def mean_interval(numbers: Numbers, *, level: float, seed: int = 0) -> tuple[float, Interval, int]:
    """Mean of shares between 0 and 1 with an interval over pairs.

    The interval is that of the differences from one half, none of which is larger than one half; so it stays within 0
    and 1 and has a width even where all are 0 or all are 1.

    Returns:
        Mean, interval, number of clusters.
    """
    d = cluster_differences(dict.fromkeys(numbers, 0.5), numbers, cluster_of)
    interval = bootstrap_interval(d, level=level, seed=seed, largest=0.5)
    mean = math.fsum(numbers.values()) / len(numbers)
    return mean, Interval(0.5 + interval.low, 0.5 + interval.high, interval.method), len(d.clusters)


def _of_family(read: Iterable[tuple[str, RunScores]], family: str, metric: str) -> Iterator[tuple[str, RunScores]]:
    for source, run in read:
        tasks = {name: task for name, task in run.tasks.items() if task.family == family and metric in task.numbers}
        if tasks:
            yield source, RunScores(run.model, tasks)


def _signature(run: RunScores) -> tuple[object, ...]:
    """What models must share to be ranked together."""
    return tuple(
        (name, task.items_sha256, *(getattr(task.settings, setting) for setting in MUST_AGREE))
        + (() if task.settings.chat_template else (task.prompts_sha256,))
        for name, task in sorted(run.tasks.items())
    )


def _reference(runs: Sequence[tuple[str, RunScores]]) -> RunScores:
    """The first of the models that most others agree with; the organism only where there is nothing else."""
    others = [run for _, run in runs if not run.model.is_organism] or [run for _, run in runs]
    commonest = Counter(map(_signature, others)).most_common(1)[0][0]
    return next(run for run in others if _signature(run) == commonest)


def _why_not(run: RunScores, reference: RunScores) -> list[str]:
    """Why a model is not ranked with the others."""
    reasons = [ORGANISM] if run.model.is_organism else []
    for what, left, right in (("has no", reference, run), ("alone has", run, reference)):
        missing = sorted(left.tasks.keys() - right.tasks.keys())
        if missing:
            reasons.append(f"not comparable: {what} {listed(missing, 3)}")
    shared = sorted(run.tasks.keys() & reference.tasks.keys())
    kinds: dict[str, str] = {}  # the first of each kind: hashes differ in every task
    for name in shared:
        for reason in refusals(reference.tasks[name], run.tasks[name]):
            kinds.setdefault(reason.partition(" ")[0], reason)
    if kinds:
        reasons.append(f"not comparable (others / this): {', '.join(kinds.values())}")
    return reasons


def _remarks(run: RunScores, reference: RunScores) -> list[str]:
    """What differs and moves scores a little; models differ in their chat templates' text by nature."""
    notes = [
        note
        for name, task in sorted(run.tasks.items())
        for note in remarks(reference.tasks[name], task)
        if not note.startswith("chat template's text")
    ]
    return [f"ranked, but differs (others / this) in {note}" for note in dict.fromkeys(notes)]


def _numbers(tasks: Iterable[TaskScores], metric: str) -> Numbers:
    numbers: Numbers = {}
    for task in tasks:
        numbers |= task.numbers[metric]
    return numbers


def _ranks(models: Sequence[Numbers], alpha: float, seed: int) -> list[tuple[int, int, int]]:
    """Rank, best and worst rank that are not excluded, of each of several models over the same documents.

    A model's best rank is behind all that are significantly better, its worst before all that are significantly worse,
    by paired sign-flip tests of all pairs of models, Holm-adjusted: with probability 1 − alpha all true ranks lie
    within (Mogstad, Romano, Shaikh & Wilhelm 2024). Bootstrapped ranks would be certain after five pairs.
    """
    count = len(models)
    means = [math.fsum(numbers.values()) / len(numbers) for numbers in models]
    better = np.zeros((count, count), dtype=bool)
    duels = list(combinations(range(count), 2))
    if duels:
        sums = np.array([cluster_differences(models[left], models[right], cluster_of).sums for left, right in duels])
        # The smallest p of random flips has to stay well under alpha after Holm.
        flips = max(20_000, math.ceil(2 * len(duels) / alpha))
        for (left, right), total, p in zip(
            duels, sums.sum(axis=1), holm(sign_flip_ps(sums, flips=flips, seed=seed)), strict=True
        ):
            if p <= alpha:
                better[(right, left) if total > 0 else (left, right)] = True
    return [
        (
            1 + sum(mean > means[index] for mean in means),
            1 + int(better[:, index].sum()),
            count - int(better[index].sum()),
        )
        for index in range(count)
    ]


def _scores(run: RunScores, metric: str, alpha: float, seed: int) -> Iterator[Score]:
    tasks = list(run.tasks.values())
    values = {task.value for task in tasks}
    groups: list[tuple[str, str, list[TaskScores]]] = [("overall", "overall", tasks)]
    for language in LANGUAGES:
        groups.append(("language", language, [task for task in tasks if task.language == language]))
    for level in LEVELS:
        members = [task for task in tasks if _LEVEL_OF.get(task.value) == level]
        if len({task.value for task in members}) > 1:  # one value is no level
            groups.append(("level", level, members))
    known = [value.key for value in VALUES]
    for value in [key for key in known if key in values] + sorted(values.difference(known)):
        groups.append(("value", value, [task for task in tasks if task.value == value]))
    for kind, name, members in groups:
        if members:
            numbers = _numbers(members, metric)
            mean, interval, clusters = mean_interval(numbers, level=1 - alpha, seed=seed)
            yield Score(kind, name, len(numbers), clusters, mean, interval.low, interval.high, interval.method)


def settings_line(board: Board) -> str:
    """The settings that the ranked models share; empty where none is ranked."""
    first = next((entry.settings for entry in board.entries if entry.rank is not None), None)
    return "" if first is None else ", ".join(f"{name} {getattr(first, name)}" for name in MUST_AGREE)
