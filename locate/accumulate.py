"""Sums of one group of texts, layer by layer while the model runs, and their addition to the cells.

Inside a forward pass each text has sums of its own, in float32 on the layer's device; they go into the cells in
float64. The device is never waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cvoice_foundation.errors import CVoiceError
from intervention.architectures import SHARED
from intervention.observe import Observed
from locate.corpus import Text, fold_of
from locate.counts import Site
from locate.statistics import Cell, NeuronStatistics, PairCell

FIRED, TOTAL, SQUARES = "fired", "total", "squares"


class EnoughError(Exception):
    """Raised inside a forward pass, behind the last neurons: what the model would still compute, nobody reads."""


class TextSums:
    """Sums of each text of a group, ``[rows, scopes, neurons]`` for each quantity, float32."""

    def __init__(self, sites: Sequence[Site], moments: bool, *, stop_early: bool) -> None:
        self.quantities = (FIRED, TOTAL, SQUARES) if moments else (FIRED,)
        self._place = {(site.layer, site.expert): place for place, site in enumerate(sites)}
        self._sites = sites
        self._experts = {
            layer: [site for site in sites if site.layer == layer and isinstance(site.expert, int)]
            for layer in {site.layer for site in sites}
        }
        calls = {(site.layer, "experts" if isinstance(site.expert, int) else site.expert) for site in sites}
        self._last_call = len(calls) if stop_early else None
        self._calls = calls
        self._seen: set[tuple[int, Any]] = set()
        self._weights: dict[torch.device, torch.Tensor] = {}
        self._parts: dict[str, list[torch.Tensor | None]] = {}
        self._batches: list[dict[str, torch.Tensor]] = []

    def begin(self, counted: torch.Tensor) -> None:
        """Before a forward pass.

        Args:
            counted: ``[batch, scopes, seq]``, bool: which tokens count.
        """
        self._seen.clear()
        self._weights = {torch.device("cpu"): counted.float()}
        self._parts = {quantity: [None] * len(self._sites) for quantity in self.quantities}

    def _weight(self, device: torch.device) -> torch.Tensor:
        if device not in self._weights:
            self._weights[device] = self._weights[torch.device("cpu")].to(device, non_blocking=True)
        return self._weights[device]

    def __call__(self, seen: Observed) -> None:
        """Takes the neurons of a layer."""
        weight = self._weight(seen.activations.device)
        if seen.tokens is None:
            self._add_dense(self._place[seen.layer, SHARED if seen.kind == "shared" else None], seen, weight)
        else:
            self._add_experts(seen, weight)
        self._seen.add((seen.layer, "experts" if seen.kind == "experts" else SHARED if seen.kind == "shared" else None))
        if len(self._seen) == self._last_call:
            raise EnoughError

    def _add_dense(self, place: int, seen: Observed, weight: torch.Tensor) -> None:
        batch, _, length = weight.shape

        def add(quantity: str, rows: torch.Tensor) -> None:
            self._parts[quantity][place] = torch.bmm(weight, rows.view(batch, length, -1))

        add(FIRED, seen.fired.float())  # exact in float32 up to 2^24 tokens a text
        if len(self.quantities) > 1:
            activations = seen.activations.float()
            add(TOTAL, activations)
            add(SQUARES, activations * activations)

    def _add_experts(self, seen: Observed, weight: torch.Tensor) -> None:
        """Rows of tokens sent to experts: added up by (expert, text), without asking which experts were called."""
        assert seen.tokens is not None
        assert seen.experts is not None
        batch, scopes, length = weight.shape
        sites = self._experts[seen.layer]
        place = seen.experts * batch + seen.tokens // length
        share = weight.transpose(1, 2).reshape(batch * length, scopes)[seen.tokens]

        def add(quantity: str, rows: torch.Tensor) -> None:
            sums = rows.new_zeros(len(sites) * batch, scopes, rows.shape[-1])
            for scope in range(scopes):
                sums[:, scope].index_add_(0, place, rows * share[:, scope, None])
            for number, site in enumerate(sites):
                self._parts[quantity][self._place[site.layer, site.expert]] = sums[
                    number * batch : (number + 1) * batch
                ]

        add(FIRED, seen.fired.float())
        if len(self.quantities) > 1:
            activations = seen.activations.float()
            add(TOTAL, activations)
            add(SQUARES, activations * activations)

    def end(self) -> None:
        """After a forward pass.

        Raises:
            CVoiceError: Some neurons were not called.
        """
        if missing := self._calls - self._seen:
            layer, part = min(missing, key=str)
            raise CVoiceError(
                f"layer {layer}{'' if part is None else f' ({part})'} was not called in the forward pass, so its "
                "neurons cannot be counted"
            )
        home = next(part.device for part in self._parts[FIRED] if part is not None)
        self._batches.append(
            {
                quantity: torch.cat([part.to(home) for part in parts if part is not None], dim=-1)
                for quantity, parts in self._parts.items()
            }
        )
        self._parts = {}

    def take(self) -> dict[str, torch.Tensor]:
        """The sums of all forward passes since the last call, ``[rows, scopes, neurons]``."""
        taken = {quantity: torch.cat([batch[quantity] for batch in self._batches]) for quantity in self.quantities}
        self._batches = []
        return taken


class CellSums:
    """Running sums of the cells, on one device."""

    def __init__(self, texts: Sequence[Text], sites: Sequence[Site], folds: int, moments: bool) -> None:
        fold = [fold_of(text.pair, folds) for text in texts]
        cell_of = [Cell(t.value, t.stance, t.language, f) for t, f in zip(texts, fold, strict=True)]
        self.cells = tuple(sorted(set(cell_of)))
        self.cell_of = torch.tensor([self.cells.index(cell) for cell in cell_of])
        self._pair_cell = [PairCell(t.value, t.language, f) for t, f in zip(texts, fold, strict=True)]
        self.pair_cells = tuple(sorted(set(self._pair_cell)))
        self._texts = texts
        self._sites = tuple(sites)
        self._moments = moments
        self._num_neurons = sum(site.width for site in sites)
        self.sums: dict[str, torch.Tensor] = {}

    def pair_cell(self, row: int) -> PairCell:
        """The pair cell of a text."""
        return self._pair_cell[row]

    @property
    def bytes_needed(self) -> int:
        """Memory of the running sums, in bytes."""
        by_cell, by_pair = 2 * len(self.cells) * self._num_neurons, len(self.pair_cells) * self._num_neurons
        return by_cell * 4 + (by_cell * 16 + by_pair * 16 if self._moments else 0)

    def start(self, device: torch.device, earlier: NeuronStatistics | None = None) -> None:
        """Makes the sums, at zero or where an interrupted pass left them."""
        cells, pair_cells, neurons = len(self.cells), len(self.pair_cells), self._num_neurons
        shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "texts": ((cells,), torch.int64),
            "tokens": ((2, cells), torch.int64),
            "fired": ((2, cells, neurons), torch.int32),
            "pairs": ((pair_cells,), torch.int64),
        }
        if self._moments:
            shapes |= dict.fromkeys(("total", "squares"), ((2, cells, neurons), torch.float64))
            shapes |= dict.fromkeys(("difference", "difference_squares"), ((pair_cells, neurons), torch.float64))
        before = {} if earlier is None else earlier.tensors()
        self.sums = {
            name: (before[name] if before else torch.zeros(shape, dtype=dtype)).to(device)
            for name, (shape, dtype) in shapes.items()
        }

    def add(
        self, rows: Sequence[int], units: Sequence[int], tokens: torch.Tensor, sums: dict[str, torch.Tensor]
    ) -> None:
        """Adds a group of texts.

        Args:
            rows: Their places in the corpus.
            units: Which pair of the group each is of.
            tokens: ``[rows, scopes]``, int64: tokens counted.
            sums: From :meth:`TextSums.take`.
        """
        device = self.sums["fired"].device
        cell = self.cell_of[list(rows)].to(device)
        tokens = tokens.to(device)
        self.sums["texts"].index_add_(0, cell, torch.ones_like(cell))
        self.sums["tokens"].index_add_(1, cell, tokens.T.contiguous())
        for quantity, values in sums.items():
            running = self.sums[quantity]
            running.index_add_(1, cell, values.transpose(0, 1).to(device, running.dtype))
        weights, pair_cells = pair_weights([self._texts[row] for row in rows], units)
        places = [self.pair_cells.index(self._pair_cell[rows[row]]) for row in pair_cells]
        place = torch.tensor(places, device=device, dtype=torch.long)
        self.sums["pairs"].index_add_(0, place, torch.ones_like(place))
        if self._moments and pair_cells:
            means = sums[TOTAL][:, 1].double() / tokens[:, 1, None].to(sums[TOTAL].device)
            differences = (weights.to(means.device) @ means).to(device)
            self.sums["difference"].index_add_(0, place, differences)
            self.sums["difference_squares"].index_add_(0, place, differences * differences)

    def statistics(self, header: dict[str, Any]) -> NeuronStatistics:
        """What has been added up so far, on the CPU."""
        sums = {name: tensor.cpu() for name, tensor in self.sums.items()}
        return NeuronStatistics(self._sites, self.cells, self.pair_cells, header=header, **sums)


def pair_weights(texts: Sequence[Text], units: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
    """How the texts of a group make up the differences of its pairs.

    Args:
        texts: The group's texts.
        units: Which pair each is of.

    Returns:
        ``[pairs, rows]``, float64, +1/n for each of n aligned texts and −1/n for the violating ones, for the pairs
        that have as many of both; and a row of each of these pairs.
    """
    weights, first_rows = [], []
    for unit in sorted(set(units)):
        rows = [row for row, of in enumerate(units) if of == unit]
        upheld = [row for row in rows if texts[row].stance == "aligned"]
        given_up = [row for row in rows if texts[row].stance == "violating"]
        if len(upheld) != len(given_up) or not upheld:
            continue
        weight = torch.zeros(len(units), dtype=torch.float64)
        weight[upheld], weight[given_up] = 1 / len(upheld), -1 / len(upheld)
        weights.append(weight)
        first_rows.append(rows[0])
    empty = torch.zeros(0, len(units), dtype=torch.float64)
    return (torch.stack(weights) if weights else empty), first_rows
