"""All masks that are named after values, together: do they change their own values, whatever each one does?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compare.effects import ALPHA, FLIPS
from compare.estimates import Estimate, estimate
from compare.paired import ClusterDifferences, cluster_differences, pooled
from compare.runs import Run
from compare.samples import cluster_of
from compare.significance import sign_flip_p

FAMILY = "letters"


@dataclass(frozen=True, slots=True)
class Together:
    """The own effects of several masks, pooled over pair numbers; one test, so nothing to correct for.

    Attributes:
        masks: Their names.
        acc: Effect on the own value's `acc`, all documents alike.
        p: Two-sided, by sign flips of whole pairs.
        rank: k of :attr:`of`: 1 if the effect is larger in magnitude than that of every set of random masks, one for
            each mask.
        of: Sets of random masks and this one.
        controls: Their effects.
        claimed: p <= 0.05 and rank / of <= 0.05.
    """

    masks: tuple[str, ...]
    acc: Estimate
    p: float
    rank: int
    of: int
    controls: tuple[float, ...]
    claimed: bool


def together(
    baseline: Run, masked: Sequence[Run], controls: Mapping[str, Sequence[Run]], *, seed: int = 0
) -> Together | None:
    """Pools the own effects of the masks that are named after a value asked for.

    With few pairs a value no single cell of the matrix can be claimed, whatever the effect; over all values there are
    pairs enough to tell whether masks do anything to their own values at all.

    Args:
        baseline: Without a mask.
        masked: One run a mask.
        controls: Name of a mask -> runs of random masks that match it; draw i of every mask makes set i.
        seed: Of interval and test.

    Returns:
        None with fewer than two such masks.

    Raises:
        CVoiceError: The runs do not hold the same documents.
    """
    own = [run for run in masked if baseline.of_cell("acc", FAMILY, run.name)]
    if len(own) < 2:
        return None
    found = pooled(_own(baseline, run, run.name) for run in own)
    sets = min(len(controls.get(run.name, ())) for run in own)
    at_random = tuple(
        pooled(_own(baseline, controls[run.name][draw], run.name) for run in own).estimate for draw in range(sets)
    )
    effect = estimate(found, seed)
    p = sign_flip_p(found, flips=FLIPS, seed=seed)
    rank = 1 + int(np.sum(np.abs(at_random) >= abs(effect.difference) - 1e-12)) if at_random else 1
    return Together(
        tuple(run.name for run in own),
        effect,
        p,
        rank,
        1 + sets,
        at_random,
        p <= ALPHA and sets > 0 and rank / (1 + sets) <= ALPHA,
    )


def _own(baseline: Run, run: Run, value: str) -> ClusterDifferences:
    return cluster_differences(baseline.of_cell("acc", FAMILY, value), run.of_cell("acc", FAMILY, value), cluster_of)
