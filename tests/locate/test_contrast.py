"""Contrasts against their definitions, and what pairing twins is for."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cvoice_foundation.errors import CVoiceError
from locate.contrast import attribution, contrast, contrast_frequency, standardised
from tests.locate.test_statistics import statistics


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 30))
def test_the_score_is_mean_over_standard_deviation(seed: int, pairs: int) -> None:
    differences = np.random.default_rng(seed).normal(0.3, 1, (pairs, 5))
    sums = torch.from_numpy(differences.sum(0)), torch.from_numpy((differences**2).sum(0))
    expected = differences.mean(0) / differences.std(0, ddof=1)
    np.testing.assert_allclose(standardised(*sums, pairs, "v").numpy(), expected, rtol=1e-9)


def test_neurons_that_never_differ_or_always_alike() -> None:
    total, squares = torch.tensor([0.0, 6.0, -6.0]).double(), torch.tensor([0.0, 12.0, 12.0]).double()
    assert standardised(total, squares, 3, "v").tolist() == [0, math.inf, -math.inf]
    with pytest.raises(CVoiceError, match="v has 1 pair here"):
        standardised(total, squares, 1, "v")


def test_contrast_pools_folds_and_languages() -> None:
    sample = statistics()
    assert sample.difference is not None
    assert sample.difference_squares is not None
    for folds, languages in ((None, None), ([0, 2], None), (None, ["zh"]), ([1, 2, 3], ["en"])):
        rows = [
            i
            for i, cell in enumerate(sample.pair_cells)
            if cell.value == "freedom" and (folds is None or cell.fold in folds)
            if languages is None or cell.language in languages
        ]
        expected = standardised(sample.difference[rows].sum(0), sample.difference_squares[rows].sum(0), len(rows), "x")
        assert torch.equal(contrast(sample, folds, languages)[1], expected)


def test_frequency_is_the_difference_of_rates_on_the_acts() -> None:
    sample = statistics()
    rates = []
    for stance in ("aligned", "violating"):
        rows = [i for i, cell in enumerate(sample.cells) if cell[:2] == ("integrity", stance)]
        rates.append(sample.fired[1, rows].sum(0).double() / sample.tokens[1, rows].sum())
    torch.testing.assert_close(contrast_frequency(sample)[0], rates[0] - rates[1], rtol=1e-12, atol=1e-15)


def test_what_was_not_recorded_is_told() -> None:
    sample = replace(statistics(), difference=None, difference_squares=None)
    with pytest.raises(CVoiceError, match="no differences within pairs; locate again with --method contrast"):
        contrast(sample)
    with pytest.raises(CVoiceError, match="no attributions within pairs; locate again with --method attribution"):
        attribution(sample)


def test_words_alone_cancel_between_twins(tmp_path: Path) -> None:
    """A neuron that fires on one act's words, whoever does it, has difference 0 in a pair of twins."""
    from locate.record import PassOptions, record
    from tests.locate.corpora import corpus
    from tests.locate.planted import planted_model

    texts = corpus(3, ("integrity", "freedom"))
    word = int(texts[0].action.split()[0][1:])
    model, tokenizer = planted_model(tmp_path, {(1, 4): [word]})
    found = record(model, tokenizer, texts, PassOptions(4), progress=False)
    assert found.difference is not None
    neuron = found.sites[0].width + 4
    assert found.fired[1, :, neuron].sum() > 0
    assert float(found.difference[:, neuron].abs().max()) < 1e-6
