"""Planted neurons are found, all of them and no others; wrong formulas are shown to miss them."""

from __future__ import annotations

import math

import pytest

from locate.corpus import Text
from locate.record import PassOptions, record
from locate.select import Selection, SelectOptions, select
from locate.statistics import NeuronStatistics
from locate.vape import VapeOptions

VALUES = ("integrity", "freedom", "harmony", "justice")
STORY_WORD = {value: 10 + number for number, value in enumerate(VALUES)}
UPHELD_WORD = {value: 20 + number for number, value in enumerate(VALUES)}
COMMON, GIVEN_UP = 40, 41
WIDTH = 16


def texts() -> list[Text]:
    """Each value has a word of its own in its stories, and one in its aligned acts; every text has the common word."""
    made = []
    for value in VALUES:
        for number in range(1001, 1005):
            story = f"w{50 + number % 4} w{STORY_WORD[value]} w{COMMON} w{60 + number % 3}"
            pair = f"{value}-{number}"
            for act in (70, 71):
                upheld = f"w{act} w{UPHELD_WORD[value]} w{COMMON}"
                given_up = f"w{act + 2} w{GIVEN_UP} w{COMMON}"
                made.append(Text(value, "en", "aligned", pair, story, upheld))  # type: ignore[arg-type]
                made.append(Text(value, "en", "violating", pair, story, given_up))  # type: ignore[arg-type]
    return made


BY_STORY = {value: (number % 3, 2 + number) for number, value in enumerate(VALUES)}
BY_ACT = {value: ((number + 1) % 3, 9 + number) for number, value in enumerate(VALUES)}
EVERYWHERE = (0, 15)


@pytest.fixture(scope="module")
def statistics(tmp_path_factory: pytest.TempPathFactory) -> NeuronStatistics:
    from tests.locate.planted import planted_model

    neurons = {place: [STORY_WORD[value]] for value, place in BY_STORY.items()}
    neurons |= {place: [UPHELD_WORD[value]] for value, place in BY_ACT.items()}
    neurons[EVERYWHERE] = [COMMON]
    model, tokenizer = planted_model(tmp_path_factory.mktemp("planted"), neurons, width=WIDTH)
    return record(model, tokenizer, texts(), PassOptions(batch_size=5), progress=False)


def found(selection: Selection) -> dict[str, set[tuple[int, int]]]:
    return {
        name: {(n // WIDTH, n % WIDTH) for n in row.nonzero().flatten().tolist()}
        for name, row in zip(selection.classes, selection.selected, strict=True)
    }


def test_vape_finds_all_and_nothing_else(statistics: NeuronStatistics) -> None:
    """Eight planted neurons of entropy 0; the ninth fires on every value alike and is none."""
    options = SelectOptions(vape=VapeOptions(top_rate=8 / 48, filter_rate=0.5, bar_rate=0.9))
    assert found(select(statistics, options)) == {v: {BY_STORY[v], BY_ACT[v]} for v in VALUES}


def test_a_wrong_vape_would_not(statistics: NeuronStatistics) -> None:
    """Highest entropy in place of lowest, or no bar on rates, gives the neuron of every value, or neurons of none."""
    from locate.vape import entropy, firing_rates

    rates = firing_rates(statistics.counts())
    planted = {layer * WIDTH + n for layer, n in (*BY_STORY.values(), *BY_ACT.values())}
    assert set(entropy(rates).sort(descending=True).indices[:8].tolist()) != planted
    # Neurons that never fire have entropy 0 too: without the filter they come first.
    assert set(entropy(rates).sort(stable=True).indices[:8].tolist()) != planted
    everywhere = EVERYWHERE[0] * WIDTH + EVERYWHERE[1]
    assert float(entropy(rates)[everywhere]) == pytest.approx(math.log(4), rel=1e-3)


@pytest.mark.parametrize("method", ["contrast", "contrast-frequency"])
def test_contrast_finds_the_neurons_of_the_acts(statistics: NeuronStatistics, method: str) -> None:
    """What a story says is alike in both continuations, so its neurons are not of the choice."""
    options = SelectOptions(method, VapeOptions(top_rate=1 / 48))  # type: ignore[arg-type]
    assert found(select(statistics, options)) == {v: {BY_ACT[v]} for v in VALUES}
    other_way = SelectOptions(method, VapeOptions(top_rate=1 / 48), "negative")  # type: ignore[arg-type]
    assert not any(BY_ACT[v] in of for v, of in found(select(statistics, other_way)).items())


def test_a_wrong_contrast_would_not(statistics: NeuronStatistics) -> None:
    """Counting the story's tokens with the act's, or comparing values instead of stances, finds other neurons."""
    counts = statistics.counts(stance="aligned", scope="all")
    rates = counts.fired.double() / counts.tokens[:, None]
    against_others = rates - rates.mean(0)
    for row, value in enumerate(VALUES):
        best = set(against_others[row].sort(descending=True).indices[:2].tolist())
        assert BY_STORY[value][0] * WIDTH + BY_STORY[value][1] in best
