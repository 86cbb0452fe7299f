"""The permutation test: small where labels mean something, uniform where they mean nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from cvoice_foundation.errors import CVoiceError
from locate.null import label_null
from locate.select import SelectOptions
from locate.statistics import NeuronStatistics
from locate.vape import VapeOptions
from tests.locate.test_statistics import statistics

VAPE = SelectOptions(vape=VapeOptions(2 / 7, 0.3, 0.3))
CONTRAST = SelectOptions("contrast", VapeOptions(2 / 7), "both")


def planted(method: str, seed: int = 0) -> NeuronStatistics:
    """Random statistics in which neuron 2 is integrity's own."""
    sample = statistics(seed, folds=8)
    own = [i for i, cell in enumerate(sample.cells) if cell.value == "integrity" and cell.stance == "aligned"]
    fired = sample.fired.clone()
    fired[:, :, 2] = 0
    fired[:, own, 2] = 50
    difference = sample.difference.clone()  # type: ignore[union-attr]
    mine = [i for i, cell in enumerate(sample.pair_cells) if cell.value == "integrity"]
    difference[mine, 2] = 1 + 0.01 * torch.arange(len(mine)).double()
    return replace(sample, fired=fired, difference=difference, difference_squares=difference.square())


@pytest.mark.parametrize(
    "options",
    [
        SelectOptions(vape=VapeOptions(1 / 7, 0.3, 0.3)),
        SelectOptions("contrast", VapeOptions(1 / 7)),
        SelectOptions("contrast-frequency", VapeOptions(1 / 7)),
    ],
)
def test_a_planted_neuron_is_found_beyond_chance(options: SelectOptions) -> None:
    null = label_null(planted(options.method), options, permutations=99, seed=1)
    assert null is not None
    again = label_null(planted(options.method), options, permutations=99, seed=1)
    assert null == again
    assert len(null.permuted) == 99
    assert null.p == (1 + sum(n >= null.observed for n in null.permuted)) / 100
    # Integrity has a neuron beyond chance; freedom, where nothing was planted, has what chance gives.
    assert null.classes["integrity"].p <= 0.02
    assert null.classes["freedom"].p > 0.05


@pytest.mark.parametrize("options", [VAPE, CONTRAST])
def test_under_no_effect_small_p_values_are_rare(options: SelectOptions) -> None:
    """60 corpora without any effect: p <= 0.05 about three times; ten or more would be one in a thousand."""
    small = 0
    for seed in range(60):
        sample = statistics(seed, folds=8)
        # Differences whose signs mean nothing, with squares of their own.
        difference = torch.randn(
            sample.difference.shape,  # type: ignore[union-attr]
            generator=torch.Generator().manual_seed(1000 + seed),
            dtype=torch.float64,
        )
        sample = replace(sample, difference=difference, difference_squares=difference.square())
        null = label_null(sample, options, permutations=39, seed=seed)
        assert null is not None
        small += null.p <= 0.05
    assert small < 10


def test_the_observed_number_is_what_the_selection_has() -> None:
    null = label_null(statistics(), VAPE, permutations=1)
    assert null is not None
    assert null.observed == 2
    assert null.dealt == "values of blocks"


def test_random_claims_nothing_and_nothing_selected_is_told() -> None:
    assert label_null(statistics(), SelectOptions("random")) is None
    for options in (SelectOptions(vape=VapeOptions(0.01)), SelectOptions("contrast", VapeOptions(0.01))):
        with pytest.raises(CVoiceError, match="no neuron was selected"):
            label_null(statistics(), options)


def test_statistics_without_differences_are_told() -> None:
    sample: Any = replace(statistics(), difference=None)
    with pytest.raises(CVoiceError, match="locate again with --method contrast"):
        label_null(sample, CONTRAST)
