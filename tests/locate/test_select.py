"""VAPE against a slow transcription of its definition, and what selection promises."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cvoice_foundation.errors import CVoiceError
from intervention.mask import NeuronMask
from locate.run import select_masks
from locate.select import VapeOptions, entropy, firing_rates, masks_of, vape
from locate.statistics import NeuronStatistics, load_counts


def statistics(fired: Any, tokens: Any, questions: Any = None, total: Any = None) -> NeuronStatistics:
    fired = torch.as_tensor(np.asarray(fired), dtype=torch.int64)
    tokens = torch.as_tensor(tokens, dtype=torch.int64)
    return NeuronStatistics(
        classes=tuple((f"v{number}", "") for number in range(len(fired))),
        tokens=tokens,
        questions=tokens if questions is None else torch.as_tensor(questions, dtype=torch.int64),
        fired=fired,
        total=total,
        header={"model": {"name": "m", "revision": None, "architecture": "Qwen2ForCausalLM"}, "corpus": None},
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


def chosen(selected: torch.Tensor) -> set[tuple[int, int, int]]:
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
    scores = entropy(firing_rates(statistics(fired, tokens), "tokens"))
    # A slow float64 entropy cannot settle ties of float32 ones, so draws that have them say nothing.
    if len(scores.unique()) == scores.numel():
        assert chosen(vape(statistics(fired, tokens), options)) == by_definition(fired, tokens, options)


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
    assert chosen(vape(statistics(fired, [100, 100]), options)) == {(0, 0, 2), (0, 0, 3), (0, 0, 4), (0, 0, 5)}


def test_a_neuron_that_never_fires_much_is_out_however_selective() -> None:
    fired = np.full((2, 1, 20), 40)
    fired[:, 0, 0] = (3, 0)
    fired[:, 0, 1] = (90, 30)
    options = VapeOptions(top_rate=0.1, filter_rate=0.95, bar_rate=0.5)
    assert chosen(vape(statistics(fired, [100, 100]), options)) == {(0, 0, 1)}


def test_the_denominator_matters() -> None:
    rng = np.random.default_rng(3)
    fired = rng.integers(0, 500, (2, 4, 50))
    sample = statistics(fired, [1000, 3000], questions=[10, 10])
    by_tokens, by_questions = (chosen(vape(sample, VapeOptions(0.2, 0.5, 0.5, d))) for d in ("tokens", "questions"))
    assert by_tokens == by_definition(fired, np.array([1000, 3000]), VapeOptions(0.2, 0.5, 0.5))
    assert by_questions == by_definition(fired, np.array([10, 10]), VapeOptions(0.2, 0.5, 0.5))
    assert by_tokens != by_questions


@pytest.mark.parametrize("options", [{"top_rate": 0}, {"filter_rate": 1.5}, {"bar_rate": -1}, {"denominator": "words"}])
def test_options_out_of_range_are_told(options: dict[str, Any]) -> None:
    with pytest.raises(CVoiceError, match="should"):
        VapeOptions(**options)


def test_one_class_alone_cannot_be_compared() -> None:
    with pytest.raises(CVoiceError, match="there is one"):
        vape(statistics(np.ones((1, 2, 3)), [10]), VapeOptions())


def test_masks_carry_the_mean_over_the_whole_corpus() -> None:
    total = torch.arange(12, dtype=torch.float64).view(2, 2, 3)
    sample = statistics(np.ones((2, 2, 3)), [10, 30], total=total)
    selected = torch.zeros(2, 2, 3, dtype=torch.bool)
    selected[0, 1, [0, 2]] = True
    first, second = masks_of(selected, sample, method={"name": "x"}, language="zh", created={})
    assert [(layer.layer, layer.neurons, layer.means) for layer in first.layers] == [
        (1, (0, 2), ((3 + 9) / 40, (5 + 11) / 40))
    ]
    assert second.layers == ()
    assert (first.model.num_layers, first.model.num_neurons, first.language) == (2, 3, "zh")


def save_counts(folder: Path, name: str, fired: np.ndarray, tokens: float, questions: int) -> str:
    path = folder / f"{name}.counts.pt"
    counts = {"token_num": tokens, "question_num": questions, "over_zero": torch.tensor(fired, dtype=torch.int32)}
    torch.save(counts, path)
    return f"{name}={path}"


def test_count_files_of_the_public_release(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    fired = rng.integers(0, 500, (2, 3, 60))
    sources = [save_counts(tmp_path, name, fired[c], 1000.0, 7) for c, name in enumerate(("support", "conflict"))]
    options = VapeOptions(0.1, 0.5, 0.5, "questions")
    masks = select_masks(sources, tmp_path / "out", options)
    expected = by_definition(fired, np.array([7, 7]), options)
    assert {(c, x.layer, n) for c, mask in enumerate(masks) for x in mask.layers for n in x.neurons} == expected
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["conflict.jsonl", "support.jsonl"]
    loaded = NeuronMask.load(tmp_path / "out" / "support.jsonl")
    assert loaded == masks[0]
    assert (loaded.model.name, loaded.model.num_layers, loaded.model.num_neurons) == (None, 3, 60)
    assert (
        json.loads((tmp_path / "out" / "support.jsonl").read_text().splitlines()[0])["method"]["denominator"]
        == "questions"
    )


def test_count_files_that_are_none(tmp_path: Path) -> None:
    good = save_counts(tmp_path, "a", np.ones((2, 3)), 5, 5)
    other = save_counts(tmp_path, "b", np.ones((2, 4)), 5, 5)
    (tmp_path / "text.pt").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pt")
    for sources, message in (
        ([good, other], r"\(2, 4\) layers and neurons, and the first file has \(2, 3\)"),
        ([good, f"b={tmp_path / 'text.pt'}"], "not a count file of b"),
        ([good, f"b={tmp_path / 'list.pt'}"], "not a count file of b"),
        ([good, f"b={tmp_path / 'none.pt'}"], "cannot read the counts of b"),
        ([good, good], "the class 'a' is given twice"),
        ([good, str(tmp_path / "text.pt")], "not both kinds"),
        ([str(tmp_path / "text.pt")], "not a statistics file"),
    ):
        with pytest.raises(CVoiceError, match=message):
            select_masks(sources, tmp_path / "out", VapeOptions())
    assert not (tmp_path / "out").exists()


def test_a_count_file_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.write_text, (tmp_path / "owned", "x"))

    torch.save({"token_num": 1, "question_num": 1, "over_zero": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CVoiceError, match="not a count file"):
        load_counts({"a": tmp_path / "evil.pt"})
    assert not (tmp_path / "owned").exists()
