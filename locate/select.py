"""Statistics to masks; each method is one pure function of the statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from cvoice_foundation.errors import CVoiceError
from intervention.mask import MaskedLayer, ModelIdentity, NeuronMask
from locate.statistics import NeuronStatistics

Denominator = Literal["tokens", "questions"]


@dataclass(frozen=True, slots=True)
class VapeOptions:
    """Settings of :func:`vape`.

    Attributes:
        top_rate: Share of all neurons to keep, those of lowest entropy.
        filter_rate: Quantile of all firing rates that a neuron must exceed for some class to be considered.
        bar_rate: Quantile of all firing rates above which a kept neuron belongs to a class.
        denominator: What counts are divided by: tokens, or texts as the public value-neuron release does (a slip).

    Raises:
        CVoiceError: A rate is not between 0 and 1.
    """

    top_rate: float = 0.01
    filter_rate: float = 0.95
    bar_rate: float = 0.95
    denominator: Denominator = "tokens"

    def __post_init__(self) -> None:
        for name in ("top_rate", "filter_rate", "bar_rate"):
            rate = getattr(self, name)
            if not 0 < rate <= 1:
                raise CVoiceError(f"--{name.replace('_', '-')} is {rate}, and should lie between 0 and 1")
        if self.denominator not in ("tokens", "questions"):
            raise CVoiceError(f"--denominator is {self.denominator!r}, and should be tokens or questions")

    def to_json(self) -> dict[str, Any]:
        """The mask header's ``method`` object."""
        return {
            "name": "vape",
            "top_rate": self.top_rate,
            "filter_rate": self.filter_rate,
            "bar_rate": self.bar_rate,
            "denominator": self.denominator,
        }


def _quantile(values: torch.Tensor, rate: float) -> torch.Tensor:
    """The ``round(n · rate)``-th smallest of n values, counted from 1, as LAPE's public code takes it."""
    place = min(max(round(values.numel() * rate), 1), values.numel())
    return values.flatten().kthvalue(place).values


def firing_rates(statistics: NeuronStatistics, denominator: Denominator) -> torch.Tensor:
    """``[layers, neurons, classes]``, float32: share of tokens (or of texts) on which each neuron fired."""
    divisor = statistics.tokens if denominator == "tokens" else statistics.questions
    rates = statistics.fired.float() / divisor.float()[:, None, None]
    return rates.nan_to_num(0.0, posinf=0.0).permute(1, 2, 0).contiguous()


def entropy(rates: torch.Tensor) -> torch.Tensor:
    """VAPE: entropy of a neuron's firing rates over the classes, normalised to sum 1; at most ln(classes).

    p̂_v = p_v / Σ p, VAPE = −Σ p̂_v ln p̂_v, natural logarithm in float32, 0 ln 0 = 0 (LAPE, arXiv 2402.16438,
    equations 2-4, with values for languages).

    Args:
        rates: ``[layers, neurons, classes]``.

    Returns:
        ``[layers, neurons]``.
    """
    share = (rates / rates.sum(-1, keepdim=True)).nan_to_num(0.0)
    logarithm = torch.where(share > 0, share.log(), torch.zeros_like(share))
    return -(share * logarithm).sum(-1)


def vape(statistics: NeuronStatistics, options: VapeOptions) -> torch.Tensor:
    """Selects neurons by value activation probability entropy, after LAPE (arXiv 2402.16438, section 2.2).

    (1) A neuron none of whose rates exceeds the ``filter_rate`` quantile of all rates is out. (2) Of the others, the
    ``round(n · top_rate)`` with the lowest entropy are kept, n counting all neurons; ties break by layer, then index.
    (3) A kept neuron belongs to every class whose rate exceeds the ``bar_rate`` quantile of all rates. Every
    comparison is strict.

    Args:
        statistics: One class a value (see :meth:`NeuronStatistics.by_value`).
        options: Rates and denominator.

    Returns:
        ``[classes, layers, neurons]``, bool.

    Raises:
        CVoiceError: There are fewer than two classes: entropy over one is always 0.
    """
    if len(statistics.classes) < 2:
        raise CVoiceError(f"vape compares classes, and there is one ({statistics.classes[0][0]}); give two or more")
    rates = firing_rates(statistics, options.denominator)
    scores = entropy(rates)
    considered = (rates > _quantile(rates, options.filter_rate)).any(-1)
    scores = torch.where(considered, scores, torch.full_like(scores, math.inf)).flatten()
    lowest = scores.sort(stable=True).indices[: round(scores.numel() * options.top_rate)]
    kept = torch.zeros(scores.numel(), dtype=torch.bool)
    kept[lowest[scores[lowest].isfinite()]] = True
    member = (rates > _quantile(rates, options.bar_rate)) & kept.view(considered.shape)[..., None]
    return member.permute(2, 0, 1).contiguous()


def masks_of(
    selected: torch.Tensor,
    statistics: NeuronStatistics,
    *,
    method: Mapping[str, Any],
    language: str | None,
    created: Mapping[str, Any],
) -> list[NeuronMask]:
    """Selected neurons as masks, one a class, with their mean activations over the whole corpus where recorded.

    Args:
        selected: ``[classes, layers, neurons]``, bool.
        statistics: What they were selected from.
        method: For the headers.
        language: For the headers.
        created: For the headers.
    """
    model = _identity(statistics)
    corpus = statistics.header.get("corpus")
    means = None
    if statistics.total is not None:
        means = statistics.total.sum(0) / statistics.tokens.sum()
    masks = []
    for (value, _), chosen in zip(statistics.classes, selected, strict=True):
        layers = tuple(
            MaskedLayer(layer, tuple(neurons), None if means is None else tuple(means[layer][neurons].tolist()))
            for layer, neurons in ((layer, row.nonzero().flatten().tolist()) for layer, row in enumerate(chosen))
            if neurons
        )
        masks.append(NeuronMask(value, model, layers, language, method, corpus, created))
    return masks


def _identity(statistics: NeuronStatistics) -> ModelIdentity:
    _, num_layers, num_neurons = statistics.fired.shape
    model = statistics.header.get("model") or {}
    return ModelIdentity(
        name=model.get("name"),
        revision=model.get("revision"),
        architecture=model.get("architecture"),
        num_layers=num_layers,
        num_neurons=num_neurons,
    )
