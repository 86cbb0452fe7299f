"""NeuronStatistics: what one pass over a corpus leaves, and all that any method reads.

Everything is added up by *cell*: a value, a stance, a language and a fold (pair numbers modulo folds: pairs are whole).
Halves of the corpus are sets of folds, a null hypothesis deals folds out anew, and shards of a corpus add up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple

import torch

from cvoice_foundation.errors import CVoiceError
from locate.counts import ClassCounts, Site

Scope = Literal["all", "choice"]
SCOPES: tuple[Scope, ...] = ("all", "choice")
"""Tokens counted: those of the parts asked for, or those of the act alone."""


class Cell(NamedTuple):
    """What texts are added up by."""

    value: str
    stance: str
    language: str
    fold: int


class PairCell(NamedTuple):
    """What differences within pairs are added up by."""

    value: str
    language: str
    fold: int


@dataclass(frozen=True)
class NeuronStatistics:
    """Counts and sums of every neuron over a corpus. C cells, P pair cells, N neurons, scopes as in :data:`SCOPES`.

    The difference of a pair is, of each neuron, the mean activation over the tokens of the aligned act minus that over
    the violating act's, each behind the same story, averaged over the pair's two stories. Its attribution is defined
    in :mod:`locate.attribution`.

    Attributes:
        sites: The neuron axis: MLPs one after the other.
        cells: The cells that occur, sorted.
        pair_cells: The pair cells that occur, sorted.
        texts: ``[C]``, int64.
        tokens: ``[scopes, C]``, int64: tokens counted.
        fired: ``[scopes, C, N]``, int32: tokens on which the neuron fired.
        pairs: ``[P]``, int64: pairs that have both stances.
        total: ``[scopes, C, N]``, float64: sum of the activation; None if only firing was counted.
        squares: The same of its square.
        difference: ``[P, N]``, float64: sum of the pairs' differences.
        difference_squares: The same of their squares.
        attribution: ``[P, N]``, float64: sum of the pairs' attributions; None if that pass was not run.
        attribution_squares: The same of their squares.
        header: Where they come from: ``model``, ``corpus``, ``created``; ``shard`` while some are missing.
    """

    sites: tuple[Site, ...]
    cells: tuple[Cell, ...]
    pair_cells: tuple[PairCell, ...]
    texts: torch.Tensor
    tokens: torch.Tensor
    fired: torch.Tensor
    pairs: torch.Tensor
    total: torch.Tensor | None = None
    squares: torch.Tensor | None = None
    difference: torch.Tensor | None = None
    difference_squares: torch.Tensor | None = None
    attribution: torch.Tensor | None = None
    attribution_squares: torch.Tensor | None = None
    header: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_neurons(self) -> int:
        """Neurons of all MLPs together."""
        return sum(site.width for site in self.sites)

    @property
    def values(self) -> tuple[str, ...]:
        """The values, in the order of the corpus where that is known."""
        order: Sequence[str] = (self.header.get("corpus") or {}).get("values") or ()
        there = dict.fromkeys(cell.value for cell in self.cells)
        return tuple(value for value in order if value in there) or tuple(there)

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds that occur."""
        return tuple(sorted({cell.fold for cell in self.cells}))

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors that are there, by name."""
        found = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}

    def counts(
        self,
        *,
        by_stance: bool = False,
        stance: str | None = "aligned",
        scope: Scope = "all",
        folds: Collection[int] | None = None,
        languages: Collection[str] | None = None,
    ) -> ClassCounts:
        """Pools cells into classes.

        Args:
            by_stance: One class a value and stance (``integrity-aligned``), in place of one a value.
            stance: The stance that counts, or None for both; not used where ``by_stance``.
            scope: Which tokens.
            folds: Which folds; None for all.
            languages: Which languages; None for all.

        Raises:
            CVoiceError: No cell is left for a class.
        """
        names = [f"{value}-{s}" for value in self.values for s in ("aligned", "violating")]
        classes = tuple(names) if by_stance else self.values
        rows: dict[str, list[int]] = {name: [] for name in classes}
        for row, cell in enumerate(self.cells):
            wanted = (by_stance or stance in (None, cell.stance)) and (folds is None or cell.fold in folds)
            if wanted and (languages is None or cell.language in languages):
                rows[f"{cell.value}-{cell.stance}" if by_stance else cell.value].append(row)
        for name, places in rows.items():
            if not places:
                raise CVoiceError(
                    f"the statistics hold no text of {name} in these folds and languages; record more items"
                )
        at = SCOPES.index(scope)

        def pool(tensor: torch.Tensor) -> torch.Tensor:
            return torch.stack([tensor[places].sum(0, dtype=torch.int64) for places in rows.values()])

        return ClassCounts(
            classes, self.sites, pool(self.tokens[at]), pool(self.texts), pool(self.fired[at]), self.header
        )

    def means(self) -> torch.Tensor | None:
        """``[N]``: mean activation over all counted tokens of the corpus; None where only firing was counted."""
        if self.total is None:
            return None
        return self.total[0].sum(0) / self.tokens[0].sum()

    def merge(self, other: NeuronStatistics) -> NeuronStatistics:
        """Statistics over both corpora, or over two shards of one; counts are exact, whatever the order.

        Raises:
            CVoiceError: They are of different models or settings, or hold the same shard.
        """
        header = _merged_header(self, other)
        cells = tuple(sorted({*self.cells, *other.cells}))
        pair_cells = tuple(sorted({*self.pair_cells, *other.pair_cells}))

        def add(name: str, axis: int, place: Callable[[NeuronStatistics], torch.Tensor], size: int) -> Any:
            parts = [(getattr(s, name), place(s)) for s in (self, other)]
            if any(part is None for part, _ in parts):
                return None
            shape = list(parts[0][0].shape)
            shape[axis] = size
            result = torch.zeros(shape, dtype=parts[0][0].dtype)
            for part, places in parts:
                result.index_add_(axis, places, part)
            return result

        def cell_places(s: NeuronStatistics) -> torch.Tensor:
            return torch.tensor([cells.index(cell) for cell in s.cells])

        def pair_places(s: NeuronStatistics) -> torch.Tensor:
            return torch.tensor([pair_cells.index(cell) for cell in s.pair_cells], dtype=torch.long)

        pooled = {name: add(name, 0, cell_places, len(cells)) for name in ("texts",)}
        pooled |= {name: add(name, 1, cell_places, len(cells)) for name in ("tokens", "fired", "total", "squares")}
        by_pair = ("pairs", "difference", "difference_squares", "attribution", "attribution_squares")
        pooled |= {name: add(name, 0, pair_places, len(pair_cells)) for name in by_pair}
        return NeuronStatistics(self.sites, cells, pair_cells, header=header, **pooled)

    def with_attribution(self, total: torch.Tensor, squares: torch.Tensor) -> NeuronStatistics:
        """The same, with the sums of a pass of attribution (see :mod:`locate.attribution`)."""
        return replace(self, attribution=total, attribution_squares=squares)


def _merged_header(first: NeuronStatistics, second: NeuronStatistics) -> dict[str, Any]:
    ours, theirs = first.header, second.header
    models = [dict(header.get("model") or {}) for header in (ours, theirs)]
    if models[0] != models[1] or first.sites != second.sites:
        raise CVoiceError(
            f"these statistics are of different models: {models[0].get('name')} with {first.num_neurons} neurons and "
            f"{models[1].get('name')} with {second.num_neurons}; merge statistics of one model"
        )
    if ours.get("settings") != theirs.get("settings"):
        raise CVoiceError(
            f"these statistics were recorded with different settings: {ours.get('settings')} and "
            f"{theirs.get('settings')}; record them alike"
        )
    corpora = [dict(header.get("corpus") or {}) for header in (ours, theirs)]
    shards = [header.get("shard") for header in (ours, theirs)]
    if shards[0] and shards[1] and corpora[0].get("sha256") == corpora[1].get("sha256"):
        have = [*shards[0]["have"], *shards[1]["have"]]
        alike = all(shards[0][key] == shards[1][key] for key in ("of", "batch_size"))
        if not alike or len(set(have)) < len(have):
            raise CVoiceError(
                f"shards {shards[0]['have']} of {shards[0]['of']} and {shards[1]['have']} of {shards[1]['of']} do not "
                "add up to a corpus; give each shard of one cut once"
            )
        merged = {key: value for key, value in ours.items() if key != "shard"}
        if len(have) < shards[0]["of"]:
            merged["shard"] = {**shards[0], "have": sorted(have)}
        return merged
    if shards[0] or shards[1]:
        raise CVoiceError("one of these is a shard of another corpus; merge a corpus' shards first")
    shas = sorted(str(corpus.get("sha256")) for corpus in corpora)
    values = dict.fromkeys([*corpora[0].get("values", ()), *corpora[1].get("values", ())])
    corpus = {
        "sha256": hashlib.sha256("\n".join(shas).encode()).hexdigest(),
        "tokens": sum(int(corpus.get("tokens") or 0) for corpus in corpora),
        "texts": sum(int(corpus.get("texts") or 0) for corpus in corpora),
        "values": list(values),
        "parts": shas,
    }
    return {**ours, "corpus": corpus}
