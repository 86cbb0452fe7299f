"""From scores to masks: how many, which first, what is dropped, and what a header says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cvoice_foundation.errors import CVoiceError
from locate.counts import Site
from locate.select import METHODS, Selection, SelectOptions, highest, language_share, masks_of, select
from locate.vape import VapeOptions
from tests.locate.test_statistics import statistics


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 999), st.sampled_from([0.05, 0.3, 1.0]), st.sampled_from(["positive", "negative", "both"]))
def test_the_highest_are_chosen_and_ties_go_to_the_first(seed: int, rate: float, sign: Any) -> None:
    scores = torch.randint(-3, 4, (2, 20), generator=torch.Generator().manual_seed(seed)).double()
    chosen = highest(scores, rate, sign)
    turned = {"positive": scores, "negative": -scores, "both": scores.abs()}[sign]
    for row in range(2):
        ranked = sorted(range(20), key=lambda n: (-float(turned[row, n]), n))
        expected = {n for n in ranked[: round(20 * rate)] if turned[row, n] > 0}
        assert set(chosen[row].nonzero().flatten().tolist()) == expected


def test_infinite_scores_come_first() -> None:
    scores = torch.tensor([[1.0, math.inf, -math.inf, 0.5]])
    assert highest(scores, 0.25, "positive").tolist() == [[False, True, False, False]]
    assert highest(scores, 0.25, "negative").tolist() == [[False, False, True, False]]


@pytest.mark.parametrize("method", [method for method in METHODS if method != "attribution"])
def test_every_method_selects_the_same_twice(method: Any) -> None:
    options = SelectOptions(method=method, vape=VapeOptions(0.5, 0.3, 0.3))
    first, second = (select(statistics(), options) for _ in range(2))
    assert torch.equal(first.selected, second.selected)
    assert first.selected.any()
    names = ("integrity", "freedom")
    assert first.classes == (
        tuple(f"{n}-{s}" for n in names for s in ("aligned", "violating")) if method == "vape-stance" else names
    )


def test_random_draws_each_value_its_own_and_hang_on_the_seed() -> None:
    one, other = (select(statistics(), SelectOptions("random", VapeOptions(0.5), seed=s)).selected for s in (0, 1))
    assert one.sum(1).tolist() == [round(7 * 0.5)] * 2
    assert not torch.equal(one, other)


def test_generic_neurons_are_dropped() -> None:
    every = select(statistics(), SelectOptions("contrast-frequency", VapeOptions(1.0), "both"))
    kept = select(statistics(), SelectOptions("contrast-frequency", VapeOptions(1.0), "both", max_values=1))
    shared = every.selected.all(0)
    assert shared.any()
    assert torch.equal(kept.selected, every.selected & ~shared)


def test_language_neurons_are_dropped() -> None:
    sample = statistics()
    rates = []
    for language in ("en", "zh"):
        rows = [i for i, cell in enumerate(sample.cells) if cell.language == language]
        rates.append(sample.fired[0, rows].sum(0).double() / sample.tokens[0, rows].sum())
    share = torch.maximum(*rates) / (rates[0] + rates[1])
    torch.testing.assert_close(language_share(sample), share, rtol=1e-12, atol=0)
    bar = float(share.median())
    every = select(sample, SelectOptions("contrast-frequency", VapeOptions(1.0), "both"))
    kept = select(sample, SelectOptions("contrast-frequency", VapeOptions(1.0), "both", language_bar=bar))
    assert torch.equal(kept.selected, every.selected & (share <= bar))
    assert not torch.equal(kept.selected, every.selected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "vap"}, "did you mean vape"),
        ({"sign": "up"}, "--sign is 'up'"),
        ({"max_values": 0}, "at least 1"),
        ({"language_bar": 0.2}, "between 0.5 and 1"),
    ],
)
def test_options_out_of_range_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CVoiceError, match=message):
        SelectOptions(**options)


def test_headers_name_what_the_method_depends_on() -> None:
    assert SelectOptions().to_json() == {
        "name": "vape",
        "top_rate": 0.01,
        "filter_rate": 0.95,
        "bar_rate": 0.95,
        "denominator": "tokens",
    }
    assert SelectOptions("contrast", max_values=2).to_json() == {
        "name": "contrast",
        "top_rate": 0.01,
        "sign": "positive",
        "max_values": 2,
    }
    assert SelectOptions("random", seed=3).to_json() == {"name": "random", "top_rate": 0.01, "seed": 3}


def test_masks_name_layers_experts_and_means() -> None:
    sites = (Site(0, None, 4), Site(1, 0, 2), Site(1, 1, 2), Site(1, "shared", 3))
    selected = torch.zeros(2, 11, dtype=torch.bool)
    selected[0, [1, 3, 5, 8, 10]] = True
    header = {"model": {"name": "m"}, "language": "zh", "corpus": {"sha256": "x", "tokens": 9, "texts": 2}}
    first, second = masks_of(
        Selection(("integrity", "freedom"), sites, selected),
        header=header,
        method={"name": "x"},
        created={},
        means=torch.arange(11, dtype=torch.float64),
    )
    assert [(line.layer, line.expert, line.neurons, line.means) for line in first.layers] == [
        (0, None, (1, 3), (1.0, 3.0)),
        (1, 0, (1,), (5.0,)),
        (1, "shared", (0, 2), (8.0, 10.0)),
    ]
    assert second.layers == ()
    assert (first.model.num_layers, first.model.num_neurons, first.language) == (2, 4, "zh")
    assert first.corpus == {"sha256": "x", "tokens": 9}
