"""Would labels dealt out at random give as many neurons? A permutation test of a selection.

``top_rate`` fixes how many neurons are kept, so their number proves nothing by itself; what is tested is how many reach
the cut-off that the selection used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from rich.progress import track

from cvoice_foundation.errors import CVoiceError
from locate.contrast import standardised
from locate.select import SelectOptions, highest
from locate.statistics import SCOPES, Cell, NeuronStatistics
from locate.vape import scored


@dataclass(frozen=True)
class ClassNull:
    """The test of one class.

    Attributes:
        observed: Neurons that reach the cut-off for this class.
        median: Of the permutations.
        p: (1 + permutations with at least as many) / (1 + permutations); not corrected for the number of classes.
    """

    observed: int
    median: float
    p: float


@dataclass(frozen=True)
class Null:
    """A label-permutation test.

    Attributes:
        dealt: What was dealt out anew.
        cutoff: The score of the selection's last neuron: entropy in nats, or a contrast, by class.
        observed: Neurons that reach it with the labels as they are (neurons and values, for contrasts).
        permuted: The same for each permutation.
        p: (1 + permutations with at least as many) / (1 + permutations).
        classes: The same for each class.
    """

    dealt: str
    cutoff: dict[str, float]
    observed: int
    permuted: tuple[int, ...]
    p: float
    classes: dict[str, ClassNull]

    def to_json(self) -> dict[str, Any]:
        """As JSON objects are made of."""
        return asdict(self) | {"permuted": list(self.permuted)}


def label_null(
    statistics: NeuronStatistics,
    options: SelectOptions,
    *,
    permutations: int = 200,
    seed: int = 0,
    progress: bool = False,
) -> Null | None:
    """Tests a selection against labels dealt out at random, folds staying whole.

    By entropy: the blocks of texts that share value and fold are dealt out among the values anew, each value getting
    as many as before. By contrast: in each block aligned and violating acts change places at random.

    Args:
        statistics: What was recorded.
        options: The selection.
        permutations: How many.
        seed: Of the permutations.
        progress: Whether to show a progress bar.

    Returns:
        The test; None for ``random``, which claims nothing.

    Raises:
        CVoiceError: The statistics lack what the method reads, or nothing was selected.
    """
    if options.method == "random":
        return None
    by_entropy = options.method in ("vape", "vape-stance")
    counter = _EntropyCounter(statistics, options) if by_entropy else _ContrastCounter(statistics, options)
    generator = torch.Generator().manual_seed(seed)
    observed, of_classes = counter.count(None)
    permuted = [
        counter.count(generator)
        for _ in track(range(permutations), description="Permuting labels", disable=not progress)
    ]
    totals = torch.tensor([total for total, _ in permuted])
    by_class = torch.stack([numbers for _, numbers in permuted])

    def p_value(number: int, others: torch.Tensor) -> float:
        return (1 + int((others >= number).sum())) / (1 + permutations)

    return Null(
        "values of blocks" if by_entropy else "acts within blocks",
        counter.cutoffs,
        observed,
        tuple(totals.tolist()),
        p_value(observed, totals),
        {
            name: ClassNull(number, float(by_class[:, row].median()), p_value(number, by_class[:, row]))
            for row, (name, number) in enumerate(zip(counter.names, of_classes.tolist(), strict=True))
        },
    )


class _Counter(Protocol):
    names: tuple[str, ...]
    cutoffs: dict[str, float]

    def count(self, generator: torch.Generator | None) -> tuple[int, torch.Tensor]:
        """How many reach the cut-off, in all and by class; None: with the labels as they are, which sets it."""


class _EntropyCounter:
    def __init__(self, statistics: NeuronStatistics, options: SelectOptions) -> None:
        by_stance = options.method == "vape-stance"
        counts = statistics.counts(by_stance=by_stance)
        self.names, self._options = counts.classes, options
        self.cutoffs: dict[str, float] = {}
        cells = [
            (row, _label(cell, by_stance), cell.fold)
            for row, cell in enumerate(statistics.cells)
            if by_stance or cell.stance == "aligned"
        ]
        keys = sorted({(name, fold) for _, name, fold in cells})
        self._fired = torch.zeros(len(keys), statistics.num_neurons)
        self._tokens = torch.zeros(len(keys))
        for row, name, fold in cells:
            place = keys.index((name, fold))
            self._fired[place] += statistics.fired[0, row]
            self._tokens[place] += statistics.tokens[0, row]
        self._labels = torch.tensor([self.names.index(name) for name, _ in keys])

    def count(self, generator: torch.Generator | None) -> tuple[int, torch.Tensor]:
        dealt = self._labels
        if generator is not None:
            dealt = dealt[torch.randperm(len(dealt), generator=generator)]
        one_hot = torch.nn.functional.one_hot(dealt, len(self.names)).float().T
        rates = ((one_hot @ self._fired) / (one_hot @ self._tokens)[:, None]).T
        found = scored(rates, self._options.vape)
        if generator is None:
            if not bool(found.kept.any()):
                raise CVoiceError("no neuron was selected, so there is nothing to test; try a lower --filter-rate")
            self.cutoffs = {"all": float(found.scores[found.kept].max())}
        reached = found.scores <= self.cutoffs["all"]
        return int(reached.sum()), (found.member & reached[:, None]).sum(0)


def _label(cell: Cell, by_stance: bool) -> str:
    return f"{cell.value}-{cell.stance}" if by_stance else cell.value


class _ContrastCounter:
    def __init__(self, statistics: NeuronStatistics, options: SelectOptions) -> None:
        self.names, self._options = statistics.values, options
        self.cutoffs: dict[str, float] = {}
        self._blocks = sorted({(cell.value, cell.fold) for cell in statistics.pair_cells})
        scores = _frequency_scores if options.method == "contrast-frequency" else _pair_scores
        self._score = scores(statistics, self._blocks, options)

    def count(self, generator: torch.Generator | None) -> tuple[int, torch.Tensor]:
        signs = torch.ones(len(self._blocks), dtype=torch.float64)
        if generator is not None:
            signs -= 2.0 * torch.randint(0, 2, (len(self._blocks),), generator=generator)
        scores = self._score(signs)
        ranked = {"positive": scores, "negative": -scores, "both": scores.abs()}[self._options.sign]
        if generator is None:
            chosen = highest(scores, self._options.vape.top_rate, self._options.sign)
            if not bool(chosen.any()):
                raise CVoiceError("no neuron was selected, so there is nothing to test; try a higher --top-rate")
            lowest = torch.where(chosen, ranked, torch.inf).amin(1)
            self.cutoffs = dict(zip(self.names, lowest.tolist(), strict=True))
        by_class = (ranked >= torch.tensor(list(self.cutoffs.values()))[:, None]).sum(1)
        return int(by_class.sum()), by_class


_Blocks = list[tuple[str, int]]
_Score = Callable[[torch.Tensor], torch.Tensor]


def _pair_scores(statistics: NeuronStatistics, blocks: _Blocks, options: SelectOptions) -> _Score:
    name = "attribution" if options.method == "attribution" else "difference"
    total, squares = getattr(statistics, name), getattr(statistics, f"{name}_squares")
    if total is None:
        raise CVoiceError(f"the statistics hold no {name}s within pairs; locate again with --method {options.method}")
    place = torch.tensor([blocks.index((cell.value, cell.fold)) for cell in statistics.pair_cells])
    sums = torch.zeros(len(blocks), total.shape[1], dtype=torch.float64).index_add_(0, place, total)
    square_sums = torch.zeros_like(sums).index_add_(0, place, squares)
    pairs = torch.zeros(len(blocks), dtype=torch.int64).index_add_(0, place, statistics.pairs)
    rows = {value: [n for n, (v, _) in enumerate(blocks) if v == value] for value in statistics.values}

    def score(signs: torch.Tensor) -> torch.Tensor:
        return torch.stack(
            [
                standardised(signs[at] @ sums[at], square_sums[at].sum(0), int(pairs[at].sum()), value)
                for value, at in rows.items()
            ]
        )

    return score


def _frequency_scores(statistics: NeuronStatistics, blocks: _Blocks, _: SelectOptions) -> _Score:
    choice = SCOPES.index("choice")
    fired = torch.zeros(2, len(blocks), statistics.num_neurons, dtype=torch.float64)
    tokens = torch.zeros(2, len(blocks), dtype=torch.float64)
    for row, cell in enumerate(statistics.cells):
        stance, place = int(cell.stance == "violating"), blocks.index((cell.value, cell.fold))
        fired[stance, place] += statistics.fired[choice, row]
        tokens[stance, place] += statistics.tokens[choice, row]
    rows = {value: [n for n, (v, _) in enumerate(blocks) if v == value] for value in statistics.values}

    def score(signs: torch.Tensor) -> torch.Tensor:
        keep = (signs > 0).double()
        scores = []
        for at in rows.values():
            rates = []
            for upheld in (keep[at], 1 - keep[at]):
                mine = upheld @ fired[0, at] + (1 - upheld) @ fired[1, at]
                rates.append(mine / (upheld @ tokens[0, at] + (1 - upheld) @ tokens[1, at]))
            scores.append(rates[0] - rates[1])
        return torch.stack(scores)

    return score
