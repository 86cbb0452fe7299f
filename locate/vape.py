"""VAPE, value activation probability entropy: neurons that fire on few classes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch

from cvoice_foundation.errors import CVoiceError
from locate.counts import ClassCounts

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
            check_rate(name, getattr(self, name))
        if self.denominator not in ("tokens", "questions"):
            raise CVoiceError(f"--denominator is {self.denominator!r}, and should be tokens or questions")

    def to_json(self) -> dict[str, Any]:
        """The settings, for a mask's header."""
        return {
            "top_rate": self.top_rate,
            "filter_rate": self.filter_rate,
            "bar_rate": self.bar_rate,
            "denominator": self.denominator,
        }


def check_rate(name: str, rate: float) -> None:
    """Refuses a share that is none.

    Raises:
        CVoiceError: It is not above 0 and at most 1.
    """
    if not 0 < rate <= 1:
        raise CVoiceError(f"--{name.replace('_', '-')} is {rate}, and should lie between 0 and 1")


def quantile(values: torch.Tensor, rate: float) -> torch.Tensor:
    """The ``round(n · rate)``-th smallest of n values, counted from 1, as LAPE's public code takes it."""
    place = min(max(round(values.numel() * rate), 1), values.numel())
    return values.flatten().kthvalue(place).values


def firing_rates(counts: ClassCounts, denominator: Denominator = "tokens") -> torch.Tensor:
    """Share of a class's tokens on which each neuron fires.

    Returns:
        ``[neurons, classes]``, float32, as the public code computes it.

    Raises:
        CVoiceError: A class has no tokens.
    """
    divisor = counts.tokens if denominator == "tokens" else counts.questions
    for name, number in zip(counts.classes, divisor.tolist(), strict=True):
        if number == 0:
            raise CVoiceError(f"the class {name} has no {denominator} in the statistics; give it items")
    return counts.fired.T.float() / divisor.float()


def entropy(rates: torch.Tensor) -> torch.Tensor:
    """Entropy of each neuron's firing rates over the classes, −Σ_v p̂_v ln p̂_v with p̂_v = p_v / Σ_v p_v.

    LAPE (arXiv 2402.16438), section 2.2. In nats, at most ln(classes); 0/0 and 0·ln 0 count as 0.

    Args:
        rates: ``[..., classes]``.

    Returns:
        ``[...]``.
    """
    share = (rates / rates.sum(-1, keepdim=True)).nan_to_num(0.0)
    logarithm = torch.where(share > 0, share.log(), torch.zeros_like(share))
    return -(share * logarithm).sum(-1)


@dataclass(frozen=True, slots=True)
class Scored:
    """What selection by entropy decides on.

    Attributes:
        scores: ``[neurons]``: entropy, +inf for those that fire too rarely everywhere.
        kept: ``[neurons]``, bool: the lowest.
        member: ``[neurons, classes]``, bool: rates above the bar.
    """

    scores: torch.Tensor
    kept: torch.Tensor
    member: torch.Tensor


def scored(rates: torch.Tensor, options: VapeOptions) -> Scored:
    """The three steps of :func:`vape`, one by one.

    Args:
        rates: ``[neurons, classes]``.
        options: The thresholds.
    """
    considered = (rates > quantile(rates, options.filter_rate)).any(-1)
    scores = entropy(rates)
    scores = torch.where(considered, scores, torch.full_like(scores, math.inf))
    lowest = scores.sort(stable=True).indices[: round(scores.numel() * options.top_rate)]
    kept = torch.zeros(scores.numel(), dtype=torch.bool)
    kept[lowest[scores[lowest].isfinite()]] = True
    return Scored(scores, kept, rates > quantile(rates, options.bar_rate))


def vape(counts: ClassCounts, options: VapeOptions) -> torch.Tensor:
    """Selects neurons by value activation probability entropy, after LAPE (arXiv 2402.16438, section 2.2).

    (1) A neuron none of whose rates exceeds the ``filter_rate`` quantile of all rates is out. (2) Of the others, the
    ``round(n · top_rate)`` with the lowest entropy are kept, n counting all neurons; ties break by layer, then index.
    (3) A kept neuron belongs to every class whose rate exceeds the ``bar_rate`` quantile of all rates. Every
    comparison is strict.

    Args:
        counts: The classes to tell apart: twelve values, or 24 of value and stance.
        options: Rates and denominator.

    Returns:
        ``[classes, neurons]``, bool.

    Raises:
        CVoiceError: There are fewer than two classes: entropy over one is always 0.
    """
    if len(counts.classes) < 2:
        raise CVoiceError(f"vape compares classes, and there is one ({counts.classes[0]}); give two or more")
    found = scored(firing_rates(counts, options.denominator), options)
    return (found.member & found.kept[:, None]).T.contiguous()
