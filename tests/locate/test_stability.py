"""Overlaps by hand; halves are halves; a stable selection is called stable and a random one is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cvoice_foundation.errors import CVoiceError
from locate.select import SelectOptions, select
from locate.stability import (
    TOP_RATES,
    between_classes,
    between_languages,
    halves,
    overlap,
    split_half,
    sweep,
)
from locate.vape import VapeOptions
from tests.locate.test_statistics import statistics

OPTIONS = SelectOptions("contrast-frequency", VapeOptions(3 / 7), "both")


def bits(*places: int, size: int = 10) -> torch.Tensor:
    return torch.tensor([place in places for place in range(size)])


def test_overlaps_by_hand() -> None:
    found = overlap(bits(0, 1, 2), bits(2, 3))
    assert (found.jaccard, found.sizes) == (1 / 4, (3, 2))
    assert found.by_chance == pytest.approx(0.6 / (3 + 2 - 0.6))
    assert overlap(bits(), bits()).jaccard is None
    assert overlap(bits(), bits(1)).jaccard == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 9), st.integers(0, 99))
def test_halves_share_no_fold_and_leave_none_out(folds: int, seed: int) -> None:
    sample = statistics(folds=folds)
    for first, second in halves(sample, 4, seed):
        assert sorted(first + second) == list(range(folds))
        assert abs(len(first) - len(second)) <= 1
    assert list(halves(sample, 4, seed)) == list(halves(sample, 4, seed))


def test_one_fold_cannot_be_halved() -> None:
    with pytest.raises(CVoiceError, match="cannot be halved"):
        list(halves(statistics(folds=1), 1, 0))


def test_folds_that_are_all_alike_give_the_same_neurons() -> None:
    sample = statistics(folds=4)
    alike = sample.fired.clone()
    first = {cell[:3]: i for i, cell in reversed(list(enumerate(sample.cells)))}
    for i, cell in enumerate(sample.cells):
        alike[:, i] = sample.fired[:, first[cell[:3]]]
    same_tokens = torch.full_like(sample.tokens, 80)
    for half in split_half(replace(sample, fired=alike, tokens=same_tokens), OPTIONS, splits=3):
        assert (half.mean, half.lowest, half.highest) == (1, 1, 1)


def test_split_half_is_the_overlap_of_two_selections() -> None:
    sample = statistics(folds=4)
    ((first, second),) = halves(sample, 1, 5)
    one, other = (select(sample, OPTIONS, folds=folds).selected for folds in (first, second))
    for row, half in enumerate(split_half(sample, OPTIONS, splits=1, seed=5)):
        assert half.mean == overlap(one[row], other[row]).jaccard
        assert half.by_chance == overlap(one[row], other[row]).by_chance


def test_between_classes_and_languages() -> None:
    sample = statistics()
    found = select(sample, OPTIONS)
    table = between_classes(found)
    assert [table[i][i].jaccard for i in range(2)] == [1, 1]
    assert table[0][1] == overlap(found.selected[0], found.selected[1])
    languages = between_languages(sample, OPTIONS)
    assert languages is not None
    zh, en = (select(sample, OPTIONS, languages=[language]).selected for language in ("zh", "en"))
    assert languages["freedom"].jaccard == overlap(zh[1], en[1]).jaccard


def test_a_sweep_says_what_selecting_at_each_setting_would() -> None:
    sample = statistics()
    points = sweep(sample, OPTIONS)
    assert [point.top_rate for point in points] == list(TOP_RATES)
    for point in points:
        setting = replace(OPTIONS, vape=replace(OPTIONS.vape, top_rate=point.top_rate))
        found = select(sample, setting)
        assert point.neurons == dict(zip(found.classes, found.selected.sum(1).tolist(), strict=True))
        assert point.quantile is None
    assert len(sweep(sample, SelectOptions())) == len(TOP_RATES) * 5
