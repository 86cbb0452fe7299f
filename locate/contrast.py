"""Methods that set aligned acts against violating ones: scores of every neuron for every value."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch

from cvoice_foundation.errors import CVoiceError
from locate.statistics import NeuronStatistics


def contrast(
    statistics: NeuronStatistics, folds: Collection[int] | None = None, languages: Collection[str] | None = None
) -> torch.Tensor:
    """Standardised mean difference between aligned and violating acts, twins paired.

    Of each pair: d_p = mean over the tokens of the aligned act − mean over those of the violating act, each behind the
    same story, averaged over the pair's two stories. The twins' acts are the same two texts, changed over, so what the
    words alone do cancels within a pair. The score is mean(d_p) / sd(d_p), over pairs (a pair's languages are two
    d_p), with its sign: positive where the neuron is higher in the acts that uphold the value. After ValueLocate
    (the difference of activations between opposite sides of a value), standardised as Cohen's d of paired samples.

    Args:
        statistics: Recorded with both stances and moments.
        folds: Which folds; None for all.
        languages: Which languages; None for all.

    Returns:
        ``[values, neurons]``, float64; 0 where a neuron never differs, ±inf where it always differs by the same.

    Raises:
        CVoiceError: The statistics hold no differences, or a value has fewer than two pairs.
    """
    return _standardised(statistics, "difference", folds, languages)


def attribution(
    statistics: NeuronStatistics, folds: Collection[int] | None = None, languages: Collection[str] | None = None
) -> torch.Tensor:
    """Standardised mean attribution (see :mod:`locate.attribution` for a pair's): mean over pairs / their sd.

    Args:
        statistics: With a pass of attribution.
        folds: Which folds; None for all.
        languages: Which languages; None for all.

    Returns:
        ``[values, neurons]``, float64; positive where zeroing the neuron is expected to cost the aligned act.

    Raises:
        CVoiceError: The pass of attribution was not run, or a value has fewer than two pairs.
    """
    return _standardised(statistics, "attribution", folds, languages)


def contrast_frequency(
    statistics: NeuronStatistics, folds: Collection[int] | None = None, languages: Collection[str] | None = None
) -> torch.Tensor:
    """Difference of firing rates: share of the aligned acts' tokens on which a neuron fires − the violating acts'.

    Returns:
        ``[values, neurons]``, float64, −1 to 1.

    Raises:
        CVoiceError: The statistics lack a stance.
    """
    rates = []
    for stance in ("aligned", "violating"):
        counts = statistics.counts(stance=stance, scope="choice", folds=folds, languages=languages)
        rates.append(counts.fired.double() / counts.tokens.double()[:, None])
    return rates[0] - rates[1]


def _standardised(
    statistics: NeuronStatistics, name: str, folds: Collection[int] | None, languages: Collection[str] | None
) -> torch.Tensor:
    total, squares = getattr(statistics, name), getattr(statistics, f"{name}_squares")
    if total is None:
        raise CVoiceError(
            f"the statistics hold no {name}s within pairs; locate again with --method "
            f"{'attribution' if name == 'attribution' else 'contrast'}, on items with both acts"
        )
    scores = []
    for value in statistics.values:
        rows = pair_rows(statistics, value, folds, languages)
        scores.append(standardised(total[rows].sum(0), squares[rows].sum(0), int(statistics.pairs[rows].sum()), value))
    return torch.stack(scores)


def pair_rows(
    statistics: NeuronStatistics, value: str, folds: Collection[int] | None, languages: Collection[str] | None
) -> list[int]:
    """The pair cells of a value, in the given folds and languages."""
    return [
        row
        for row, cell in enumerate(statistics.pair_cells)
        if cell.value == value and (folds is None or cell.fold in folds)
        if languages is None or cell.language in languages
    ]


def standardised(total: torch.Tensor, squares: torch.Tensor, pairs: int, value: str) -> torch.Tensor:
    """Mean over standard deviation (n − 1) from sums; 0/0 is 0.

    Raises:
        CVoiceError: There are fewer than two pairs.
    """
    if pairs < 2:
        raise CVoiceError(f"{value} has {pairs} pair{'s' * (pairs != 1)} here, and a standard deviation needs two")
    mean = total / pairs
    spread = (squares - pairs * mean * mean).clamp(min=0) / (pairs - 1)
    # What is left of rounding is no spread: sums of squares are known to about 1e-15 of themselves.
    spread = torch.where(spread > 1e-12 * squares / pairs, spread, torch.zeros_like(spread))
    score = mean / spread.sqrt()
    return torch.where(mean == 0, torch.zeros_like(score), score).nan_to_num(0.0, posinf=math.inf, neginf=-math.inf)
