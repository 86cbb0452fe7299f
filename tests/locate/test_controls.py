"""Random masks match what they should match, and hold nothing of the mask."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cvoice_foundation.errors import CVoiceError
from intervention.mask import NeuronMask
from locate.controls import matched_random_masks, write_controls
from locate.counts import Site
from locate.statistics import Cell, NeuronStatistics
from locate.statistics_file import save_statistics
from tests.tiny_masks import tiny_mask as any_tiny_mask

WIDTH = 56


def tiny_mask(layers: Any, means: float | None = None) -> NeuronMask:
    return any_tiny_mask(layers, means=means, num_neurons=WIDTH)


def busy(seed: int = 0) -> NeuronStatistics:
    """Statistics of the three layers that tiny masks are of; every neuron has a firing rate of its own."""
    generator = torch.Generator().manual_seed(seed)
    fired = torch.stack([torch.randperm(WIDTH, generator=generator) for _ in range(3)]).flatten().int()
    return NeuronStatistics(
        tuple(Site(layer, None, WIDTH) for layer in range(3)),
        (Cell("integrity", "aligned", "en", 0),),
        (),
        texts=torch.ones(1).long(),
        tokens=torch.full((2, 1), 100),
        fired=fired.expand(2, 1, -1).contiguous(),
        pairs=torch.zeros(0).long(),
        total=torch.rand(2, 1, 3 * WIDTH, generator=generator, dtype=torch.float64),
        header={"model": {"name": "m"}},
    )


masks = st.dictionaries(
    st.integers(0, 2),
    st.sets(st.integers(0, WIDTH - 1), min_size=1, max_size=20).map(lambda s: tuple(sorted(s))),
    min_size=1,
)


@settings(max_examples=60, deadline=None)
@given(masks, st.integers(0, 99))
def test_by_layer_alone(layers: dict[int, tuple[int, ...]], seed: int) -> None:
    mask = tiny_mask(layers)
    for control in matched_random_masks(mask, 3, seed):
        assert [(line.layer, len(line.neurons)) for line in control.layers] == [
            (line.layer, len(line.neurons)) for line in mask.layers
        ]
        for mine, theirs in zip(control.layers, mask.layers, strict=True):
            assert not set(mine.neurons) & set(theirs.neurons)
        assert control.method["matched"] == ["layer"]
        assert control.method["of"] == mask.sha256


@settings(max_examples=60, deadline=None)
@given(masks.filter(lambda m: all(len(neurons) <= 3 for neurons in m.values())), st.integers(0, 99))
def test_by_firing_rate_decile(layers: dict[int, tuple[int, ...]], seed: int) -> None:
    mask, statistics = tiny_mask(layers), busy()
    rates = statistics.fired[0, 0].view(3, WIDTH)  # ranks, so deciles by hand are simple
    for control in matched_random_masks(mask, 2, seed, statistics):
        for mine, theirs in zip(control.layers, mask.layers, strict=True):
            deciles = [
                Counter((rates[mine.layer, list(x)] * 10 // WIDTH).tolist()) for x in (mine.neurons, theirs.neurons)
            ]
            assert deciles[0] == deciles[1]


def test_the_nearest_decile_helps_out() -> None:
    statistics = busy()
    order = statistics.fired[0, 0, :WIDTH].sort().indices
    mask = tiny_mask({0: tuple(sorted(order[:6].tolist()))})  # the whole lowest decile
    (control,) = matched_random_masks(mask, 1, 0, statistics)
    assert set(control.layers[0].neurons) <= set(order[6:17].tolist())
    assert len(control.layers[0].neurons) == 6


def test_draws_hang_on_seed_and_number_alone() -> None:
    mask = tiny_mask({0: (1, 2, 3), 2: (5,)})
    few, many, other = (matched_random_masks(mask, n, s) for n, s in ((2, 0), (5, 0), (2, 1)))
    assert few == many[:2]
    assert len({control.sha256 for control in many}) == 5
    assert few != other
    assert few[0] != matched_random_masks(tiny_mask({0: (1, 2, 4), 2: (5,)}), 1, 0)[0]
    assert [control.value for control in few] == [f"{mask.value}-random-001", f"{mask.value}-random-002"]


def test_draws_are_even() -> None:
    """Every other neuron of the layer is drawn about as often: 2,000 draws of 8 of 48, 5 standard deviations."""
    mask = tiny_mask({0: tuple(range(8))})
    drawn = Counter(n for control in matched_random_masks(mask, 2000, 3) for n in control.layers[0].neurons)
    assert set(drawn) == set(range(8, WIDTH))
    expected, deviation = 2000 / 6, (2000 * 5 / 36) ** 0.5
    assert max(abs(times - expected) for times in drawn.values()) < 5 * deviation


def test_controls_carry_their_own_means() -> None:
    mask, statistics = tiny_mask({1: (3, 4)}, means=0.5), busy()
    (control,) = matched_random_masks(mask, 1, 0, statistics)
    means = statistics.means()
    assert means is not None
    assert control.layers[0].means == tuple(means[WIDTH + n].item() for n in control.layers[0].neurons)


@pytest.mark.parametrize(
    ("layers", "message"), [({0: tuple(range(29))}, "holds 29 of 56 neurons in layer 0"), ({}, "is empty")]
)
def test_what_cannot_be_matched_is_told(layers: dict[int, tuple[int, ...]], message: str) -> None:
    with pytest.raises(CVoiceError, match=message):
        matched_random_masks(tiny_mask(layers), 1, 0)


def test_a_mask_that_does_not_tell_its_widths_needs_statistics() -> None:
    for mask in (any_tiny_mask({0: (1,)}), any_tiny_mask({(0, 3): (1,)}, num_neurons=WIDTH)):
        with pytest.raises(CVoiceError, match="does not say how many neurons layer 0 has; give --stats FILE"):
            matched_random_masks(mask, 1, 0)
    (control,) = matched_random_masks(any_tiny_mask({(0, 3): (1,)}), 1, 0, widths={(0, 3): 4})
    assert control.layers[0].expert == 3
    assert control.layers[0].neurons in ((0,), (2,), (3,))


def test_statistics_of_another_model_are_told() -> None:
    sample = busy()
    small = NeuronStatistics(
        sample.sites[:1], sample.cells, (), sample.texts, sample.tokens, sample.fired[..., :WIDTH], sample.pairs
    )
    with pytest.raises(CVoiceError, match="no such MLP in layer 2"):
        matched_random_masks(tiny_mask({2: (1,)}), 1, 0, small)


def test_files_and_which_statistics_were_used(tmp_path: Path) -> None:
    path = tmp_path / "integrity.jsonl"
    tiny_mask({0: (1, 2)}).save(path)
    _, matched = write_controls(path, tmp_path / "one", draws=2)
    assert "layer alone" in matched
    save_statistics(busy(), tmp_path / "statistics.safetensors")
    made, matched = write_controls(path, tmp_path / "two", draws=2)
    assert "decile" in matched
    for control in made:
        assert NeuronMask.load(tmp_path / "two" / f"{control.value}.jsonl") == control
