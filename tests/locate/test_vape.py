"""VAPE against a slow transcription of its definition, and what selection promises."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cvoice_foundation.errors import CVoiceError
from locate.counts import ClassCounts, Site
from locate.vape import VapeOptions, entropy, firing_rates, vape


def counts(fired: Any, tokens: Any, questions: Any = None) -> ClassCounts:
    fired = torch.as_tensor(np.asarray(fired), dtype=torch.int64)
    tokens = torch.as_tensor(tokens, dtype=torch.int64)
    return ClassCounts(
        classes=tuple(f"v{number}" for number in range(len(fired))),
        sites=tuple(Site(layer, None, fired.shape[2]) for layer in range(fired.shape[1])),
        tokens=tokens,
        questions=tokens if questions is None else torch.as_tensor(questions, dtype=torch.int64),
        fired=fired.flatten(1),
    )


def by_definition(fired: np.ndarray, counts: np.ndarray, options: VapeOptions) -> set[tuple[int, int, int]]:
    """(class, layer, neuron), neuron by neuron, from the definition alone."""
    classes, layers, neurons = fired.shape
    rate = (fired.astype(np.float32) / counts.astype(np.float32)[:, None, None]).astype(np.float32)
    ordered = np.sort(rate.flatten())

    def quantile(q: float) -> np.float32:
        return np.float32(ordered[min(max(round(len(ordered) * q), 1), len(ordered)) - 1])

    scored = []
    for layer in range(layers):
        for neuron in range(neurons):
            p = rate[:, layer, neuron]
            if not (p > quantile(options.filter_rate)).any():
                continue
            shares = [float(x) / float(p.sum()) for x in p]
            scored.append((-sum(x * math.log(x) for x in shares if x > 0), layer, neuron))
    scored.sort()
    kept = scored[: round(layers * neurons * options.top_rate)]
    bar = quantile(options.bar_rate)
    return {(c, layer, n) for _, layer, n in kept for c in range(classes) if rate[c, layer, n] > bar}


def chosen(sample: ClassCounts, options: VapeOptions) -> set[tuple[int, int, int]]:
    selected = vape(sample, options).view(len(sample.classes), len(sample.sites), -1)
    return {tuple(place) for place in selected.nonzero().tolist()}


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    classes=st.integers(2, 12),
    top=st.sampled_from([0.01, 0.1, 0.4, 1.0]),
    rate=st.sampled_from([0.3, 0.5, 0.95]),
)
def test_vape_is_its_definition(seed: int, classes: int, top: float, rate: float) -> None:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(900, 1100, classes)
    fired = rng.integers(0, 900, (classes, 3, 40))
    options = VapeOptions(top_rate=top, filter_rate=rate, bar_rate=rate)
    scores = entropy(firing_rates(counts(fired, tokens)))
    # A slow float64 entropy cannot settle ties of float32 ones, so draws that have them say nothing.
    if len(scores.unique()) == scores.numel():
        assert chosen(counts(fired, tokens), options) == by_definition(fired, tokens, options)


def test_a_neuron_of_one_class_has_entropy_zero_and_an_even_one_the_most() -> None:
    rates = torch.tensor([[[0.5] + [0.0] * 11, [0.25] * 12, [0.0] * 12]])
    scores = entropy(rates)[0]
    assert scores[0] == 0
    assert float(scores[1]) == pytest.approx(math.log(12), rel=1e-6)
    assert scores[2] == 0


def test_ties_break_by_layer_then_index() -> None:
    fired = np.zeros((2, 3, 10), dtype=int)
    fired[0, :, 2:8] = 50
    options = VapeOptions(top_rate=4 / 30, filter_rate=0.5, bar_rate=0.5)
    assert chosen(counts(fired, [100, 100]), options) == {(0, 0, 2), (0, 0, 3), (0, 0, 4), (0, 0, 5)}


def test_a_neuron_that_never_fires_much_is_out_however_selective() -> None:
    fired = np.full((2, 1, 20), 40)
    fired[:, 0, 0] = (3, 0)
    fired[:, 0, 1] = (90, 30)
    options = VapeOptions(top_rate=0.1, filter_rate=0.95, bar_rate=0.5)
    assert chosen(counts(fired, [100, 100]), options) == {(0, 0, 1)}


def test_the_denominator_matters() -> None:
    rng = np.random.default_rng(3)
    fired = rng.integers(0, 500, (2, 4, 50))
    sample = counts(fired, [1000, 3000], questions=[10, 10])
    by_tokens, by_questions = (chosen(sample, VapeOptions(0.2, 0.5, 0.5, d)) for d in ("tokens", "questions"))
    assert by_tokens == by_definition(fired, np.array([1000, 3000]), VapeOptions(0.2, 0.5, 0.5))
    assert by_questions == by_definition(fired, np.array([10, 10]), VapeOptions(0.2, 0.5, 0.5))
    assert by_tokens != by_questions


@pytest.mark.parametrize("options", [{"top_rate": 0}, {"filter_rate": 1.5}, {"bar_rate": -1}, {"denominator": "words"}])
def test_options_out_of_range_are_told(options: dict[str, Any]) -> None:
    with pytest.raises(CVoiceError, match="should"):
        VapeOptions(**options)


def test_one_class_alone_cannot_be_compared() -> None:
    with pytest.raises(CVoiceError, match="there is one"):
        vape(counts(np.ones((1, 2, 3)), [10]), VapeOptions())


def test_a_class_without_tokens_is_told() -> None:
    with pytest.raises(CVoiceError, match="the class v1 has no tokens"):
        vape(counts(np.ones((2, 2, 3)), [10, 0]), VapeOptions())
