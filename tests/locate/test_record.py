"""One pass equals counting by hand, token by token and text by text; nothing that is a pad counts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cvoice_foundation.errors import CVoiceError
from intervention.neurons import find_neurons
from locate.corpus import Text, fold_of
from locate.record import PassOptions, record
from locate.statistics import SCOPES, Cell, NeuronStatistics, PairCell
from tests.intervention.test_observe import _by_hand
from tests.locate.corpora import ACTION, NONE, TEMPLATE, codes_of, corpus, loaded
from tests.tiny_models import DENSE, MIXTURES

OPTIONS = PassOptions(batch_size=3)


def by_hand(model: Any, tokenizer: Any, texts: list[Text]) -> Iterator[tuple[Text, torch.Tensor, torch.Tensor, Any]]:
    """Of each text: part codes, activations ``[tokens, neurons]`` and firing; 0 where an expert is not called."""
    mlps = find_neurons(model)
    for text in texts:
        ids, codes = codes_of(text, tokenizer)
        counts = _by_hand(model, torch.tensor([ids]))
        activations, fired = [], []
        for mlp in mlps:
            act, sign = torch.zeros(len(ids), mlp.width), torch.zeros(len(ids), mlp.width, dtype=torch.bool)
            found = counts.get((mlp.layer, mlp.expert))
            if found is not None:
                rows = slice(None) if found[2] is None else torch.tensor(found[2])
                act[rows], sign[rows] = found[0].float(), found[1]
            activations.append(act)
            fired.append(sign)
        yield text, torch.tensor(codes), torch.cat(activations, -1), torch.cat(fired, -1)


@pytest.mark.parametrize("model_type", [*DENSE, *MIXTURES])
@torch.no_grad()
def test_counts_equal_counts_by_hand(tmp_path: Path, model_type: str) -> None:
    """Every architecture, dense and mixture: counts, sums and squares of cells, differences of pairs."""
    model, tokenizer = loaded(tmp_path, model_type)
    texts = corpus(2, ("integrity", "freedom"))
    statistics = record(model, tokenizer, texts, OPTIONS, progress=False)
    shape = statistics.fired.shape
    fired = torch.zeros(shape, dtype=torch.int64)
    total, squares = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    tokens = torch.zeros(shape[:2], dtype=torch.int64)
    means: dict[tuple[PairCell, str], list[torch.Tensor]] = {}
    for text, codes, activations, sign in by_hand(model, tokenizer, texts):
        fold = fold_of(text.pair)
        cell = statistics.cells.index(Cell(text.value, text.stance, text.language, fold))
        counted = [(codes != NONE) & (codes != TEMPLATE), codes == ACTION]
        for scope, rows in enumerate(counted):
            tokens[scope, cell] += rows.sum()
            fired[scope, cell] += sign[rows].sum(0)
            total[scope, cell] += activations[rows].double().sum(0)
            squares[scope, cell] += activations[rows].double().square().sum(0)
        pair = PairCell(text.value, text.language, fold)
        means.setdefault((pair, text.stance), []).append(activations[counted[1]].double().mean(0))
    assert torch.equal(statistics.tokens, tokens)
    assert int(statistics.texts.sum()) == len(texts)
    # Padding changes the shape of matrix products and so their rounding: a gate within rounding of zero may differ.
    assert ((statistics.fired - fired) != 0).float().mean() < 0.002
    assert statistics.total is not None
    assert statistics.squares is not None
    assert statistics.difference is not None
    torch.testing.assert_close(statistics.total, total, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(statistics.squares, squares, rtol=1e-4, atol=1e-4)
    assert statistics.pairs.tolist() == [1] * 8
    for row, pair in enumerate(statistics.pair_cells):
        first, second = means[pair, "aligned"], means[pair, "violating"]
        expected = (first[0] + first[1] - second[0] - second[1]) / 2
        torch.testing.assert_close(statistics.difference[row], expected, rtol=1e-4, atol=1e-5)
        assert statistics.difference_squares is not None
        torch.testing.assert_close(
            statistics.difference_squares[row], statistics.difference[row].square(), rtol=1e-12, atol=0
        )


@pytest.fixture
def model_and_tokenizer(tmp_path: Path) -> tuple[Any, Any]:
    return loaded(tmp_path / "model")


def equal_counts(first: NeuronStatistics, second: NeuronStatistics) -> bool:
    return (first.cells, first.pair_cells) == (second.cells, second.pair_cells) and all(
        torch.equal(getattr(first, name), getattr(second, name)) for name in ("texts", "tokens", "fired", "pairs")
    )


def test_counts_do_not_depend_on_the_batch_size(model_and_tokenizer: tuple[Any, Any]) -> None:
    one, many = (
        record(*model_and_tokenizer, corpus(), PassOptions(batch_size=size), progress=False) for size in (1, 16)
    )
    assert equal_counts(one, many)
    assert one.total is not None
    # Sums differ in rounding alone: the matrix products of a padded batch add up in another order.
    torch.testing.assert_close(one.total, many.total, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", ["llama", "qwen2_moe"])
def test_the_same_pass_twice_is_the_same_to_the_bit(tmp_path: Path, model_type: str) -> None:
    model, tokenizer = loaded(tmp_path, model_type)
    one, other = (record(model, tokenizer, corpus(), OPTIONS, progress=False) for _ in range(2))
    assert one.header == other.header
    assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in one.tensors().items())


def test_parts_are_switchable(model_and_tokenizer: tuple[Any, Any]) -> None:
    model, tokenizer = model_and_tokenizer
    texts = corpus(1)
    whole = record(model, tokenizer, texts, OPTIONS, progress=False)
    parts = [
        record(model, tokenizer, texts, PassOptions(3, (part,)), progress=False)
        for part in ("story", "action", "rationale")  # type: ignore[arg-type]
    ]
    every, choice = SCOPES.index("all"), SCOPES.index("choice")
    assert torch.equal(sum(part.fired[every] for part in parts), whole.fired[every])  # type: ignore[arg-type]
    assert torch.equal(parts[1].fired[every], whole.fired[choice])
    assert all(torch.equal(part.fired[choice], whole.fired[choice]) for part in parts)


def test_firing_alone(model_and_tokenizer: tuple[Any, Any]) -> None:
    model, tokenizer = model_and_tokenizer
    with_moments, without = (
        record(model, tokenizer, corpus(), PassOptions(3, moments=moments), progress=False) for moments in (True, False)
    )
    assert torch.equal(with_moments.fired, without.fired)
    assert (without.total, without.squares, without.difference, without.means()) == (None, None, None, None)


def test_stories_without_twins_have_differences_too(model_and_tokenizer: tuple[Any, Any]) -> None:
    texts = [text for text in corpus(1, ("integrity", "freedom")) if text.language == "en"][:2]
    statistics = record(*model_and_tokenizer, texts, OPTIONS, progress=False)
    assert statistics.pairs.tolist() == [1]
    alone = record(*model_and_tokenizer, texts[:1], OPTIONS, progress=False)
    assert alone.pairs.tolist() == [0]


class Greedy(torch.nn.Module):
    """A decoder that is out of memory with more than two texts."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.most = 0

    def forward(self, input_ids: torch.Tensor, **rest: Any) -> Any:
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.most = max(self.most, len(input_ids))
        return self.inner(input_ids=input_ids, **rest)


def test_out_of_memory_halves_the_batch(
    model_and_tokenizer: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, tokenizer = model_and_tokenizer
    expected = record(model, tokenizer, corpus(), PassOptions(batch_size=8), progress=False)
    inner = model.model
    greedy = Greedy(inner)
    monkeypatch.setattr(type(model), "base_model_prefix", "greedy")
    monkeypatch.setattr(type(model), "greedy", greedy, raising=False)
    with caplog.at_level(logging.WARNING):
        found = record(model, tokenizer, corpus(), PassOptions(batch_size=8), progress=False)
    assert equal_counts(found, expected)
    assert greedy.most == 2
    assert [r.message for r in caplog.records] == [
        "out of memory with 8 texts a batch; going on with 4",
        "out of memory with 4 texts a batch; going on with 2",
    ]

    def never(**_: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(type(model), "greedy", staticmethod(never))
    with pytest.raises(CVoiceError, match="out of memory on one text"):
        record(model, tokenizer, corpus(), PassOptions(batch_size=1), progress=False)


@torch.no_grad()
def test_activations_that_are_not_finite_name_the_layer(model_and_tokenizer: tuple[Any, Any]) -> None:
    model, tokenizer = model_and_tokenizer
    model.model.layers[1].mlp.up_proj.weight[3] = torch.inf
    with pytest.raises(CVoiceError, match="activations of layer 1 are not finite"):
        record(model, tokenizer, corpus(1), OPTIONS, progress=False)


def test_nothing_is_left_on_the_model(model_and_tokenizer: tuple[Any, Any]) -> None:
    model, tokenizer = model_and_tokenizer
    record(model, tokenizer, corpus(1), OPTIONS, progress=False)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_an_empty_corpus_is_told(model_and_tokenizer: tuple[Any, Any]) -> None:
    with pytest.raises(CVoiceError, match="the corpus is empty"):
        record(*model_and_tokenizer, [], OPTIONS, progress=False)
