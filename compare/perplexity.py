"""What masks change in the perplexity of neutral passages, beside what random masks change in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compare.estimates import Estimate, estimate
from compare.paired import ClusterDifferences, cluster_differences
from compare.runs import Run


@dataclass(frozen=True, slots=True)
class PerplexityChange:
    """A mask's effect on the perplexity of the neutral passages of a language.

    Attributes:
        mask: Name of the mask.
        language: ``zh`` or ``en``.
        before: Geometric mean of the passages' perplexities without a mask.
        after: With it.
        log_ratio: Mean of ln(after / before) over passages; exp of it is ``after / before``.
        rank: k of :attr:`of`: 1 if the change is larger in magnitude than under every random mask.
        of: Random masks and this one.
        controls: The random masks' log ratios.
    """

    mask: str
    language: str
    before: float
    after: float
    log_ratio: Estimate
    rank: int
    of: int
    controls: tuple[float, ...]


def perplexity_changes(
    baseline: Run, masked: Sequence[Run], controls: Mapping[str, Sequence[Run]], *, seed: int = 0
) -> list[PerplexityChange]:
    """Changes of every mask in every language that has passages.

    Args:
        baseline: Without a mask.
        masked: One run a mask.
        controls: Name of a mask -> runs of random masks that match it.
        seed: Of the intervals.

    Raises:
        CVoiceError: The runs do not hold the same passages.
    """
    found = []
    for run in masked:
        for language in dict.fromkeys(key[1] for key in baseline.passages):
            d = _log_ratios(baseline, run, language)
            at_random = tuple(
                _log_ratios(baseline, control, language).estimate for control in controls.get(run.name, ())
            )
            logs = [math.log(number) for key, number in baseline.passages.items() if key[1] == language]
            before = math.fsum(logs) / len(logs)
            found.append(
                PerplexityChange(
                    mask=run.name,
                    language=language,
                    before=math.exp(before),
                    after=math.exp(before + d.estimate),
                    # Nothing bounds a log ratio.
                    log_ratio=estimate(d, seed, None),
                    rank=1 + sum(abs(other) >= abs(d.estimate) - 1e-12 for other in at_random),
                    of=1 + len(at_random),
                    controls=at_random,
                )
            )
    return found


def _log_ratios(baseline: Run, run: Run, language: str) -> ClusterDifferences:
    before, after = (
        {key: math.log(number) for key, number in one.passages.items() if key[1] == language} for one in (baseline, run)
    )
    return cluster_differences(before, after, lambda key: key[3])
