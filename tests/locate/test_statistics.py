"""Statistics add up, survive their file, and refuse what does not belong together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from cvoice_foundation.errors import CVoiceError
from locate.counts import Site
from locate.record import PassOptions, record
from locate.run import merged
from locate.statistics import Cell, NeuronStatistics, PairCell
from locate.statistics_file import load_statistics, save_statistics
from tests.locate.corpora import corpus, loaded

VALUES, STANCES, LANGUAGES = ("integrity", "freedom"), ("aligned", "violating"), ("en", "zh")


def statistics(seed: int = 0, folds: int = 4, shard: dict[str, Any] | None = None) -> NeuronStatistics:
    """Random ones of 2 values, 2 languages, 7 neurons."""
    generator = torch.Generator().manual_seed(seed)
    cells = tuple(Cell(v, s, la, f) for v in sorted(VALUES) for s in STANCES for la in LANGUAGES for f in range(folds))
    pair_cells = tuple(PairCell(v, la, f) for v in sorted(VALUES) for la in LANGUAGES for f in range(folds))
    tokens = torch.randint(50, 90, (2, len(cells)), generator=generator)
    by_cell, by_pair = (2, len(cells), 7), (len(pair_cells), 7)
    header: dict[str, Any] = {"model": {"name": "m"}, "settings": {"folds": folds}}
    header["corpus"] = {"sha256": f"{seed}", "tokens": int(tokens[0].sum()), "texts": 5, "values": list(VALUES)}
    if shard:
        header |= {"shard": shard, "corpus": header["corpus"] | {"sha256": "whole"}}
    return NeuronStatistics(
        (Site(0, None, 4), Site(1, None, 3)),
        cells,
        pair_cells,
        texts=torch.full((len(cells),), 2),
        tokens=tokens,
        fired=torch.randint(0, 50, by_cell, generator=generator, dtype=torch.int32),
        pairs=torch.ones(len(pair_cells), dtype=torch.int64),
        total=torch.rand(by_cell, generator=generator, dtype=torch.float64),
        squares=torch.rand(by_cell, generator=generator, dtype=torch.float64),
        difference=torch.randn(by_pair, generator=generator, dtype=torch.float64),
        difference_squares=torch.rand(by_pair, generator=generator, dtype=torch.float64),
        header=header,
    )


def test_statistics_survive_the_file(tmp_path: Path) -> None:
    sample = statistics()
    save_statistics(sample, tmp_path / "s.safetensors")
    read = load_statistics(tmp_path / "s.safetensors")
    assert (read.sites, read.cells, read.pair_cells, read.header) == (
        sample.sites,
        sample.cells,
        sample.pair_cells,
        sample.header,
    )
    assert read.tensors().keys() == sample.tensors().keys()
    assert all(torch.equal(tensor, read.tensors()[name]) for name, tensor in sample.tensors().items())
    save_statistics(read, tmp_path / "again.safetensors")
    assert (tmp_path / "s.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 400))
def test_files_that_are_none_are_told(tmp_path_factory: pytest.TempPathFactory, noise: bytes, cut: int) -> None:
    folder = tmp_path_factory.mktemp("files")
    (folder / "noise").write_bytes(noise)
    save_statistics(statistics(), folder / "whole")
    (folder / "cut").write_bytes((folder / "whole").read_bytes()[:cut])
    for name in ("noise", "cut", "missing"):
        with pytest.raises(CVoiceError, match="not a statistics file"):
            load_statistics(folder / name)


def test_other_safetensors_files_are_told(tmp_path: Path) -> None:
    save_file({"x": torch.ones(2)}, tmp_path / "other")
    with pytest.raises(CVoiceError, match="not of neuron statistics"):
        load_statistics(tmp_path / "other")
    sample = statistics()
    save_statistics(replace(sample, fired=sample.fired[:, :3]), tmp_path / "unfit")
    with pytest.raises(CVoiceError, match="do not fit together"):
        load_statistics(tmp_path / "unfit")


def test_pooling_by_value_stance_fold_and_language() -> None:
    sample = statistics()
    counts = sample.counts(folds=[1, 3], languages=["zh"])
    assert counts.classes == VALUES, "in the corpus' own order"
    for row, value in enumerate(VALUES):
        cells = [i for i, c in enumerate(sample.cells) if c[:3] == (value, "aligned", "zh") and c.fold in (1, 3)]
        assert len(cells) == 2
        assert torch.equal(counts.fired[row], sample.fired[0, cells].sum(0))
        assert counts.tokens[row] == sample.tokens[0, cells].sum()
    stances = sample.counts(by_stance=True, scope="choice")
    assert stances.classes == ("integrity-aligned", "integrity-violating", "freedom-aligned", "freedom-violating")
    both = sample.counts(stance=None, scope="choice")
    assert torch.equal(stances.fired[0] + stances.fired[1], both.fired[0])
    with pytest.raises(CVoiceError, match="no text of integrity in these folds"):
        sample.counts(folds=[9])


def test_the_mean_is_over_all_counted_tokens() -> None:
    sample = statistics()
    assert sample.total is not None
    expected = sample.total[0].sum(0) / sample.tokens[0].sum()
    means = sample.means()
    assert means is not None
    assert torch.equal(means, expected)


def test_merged_parts_equal_one_pass_exactly_in_counts(tmp_path: Path) -> None:
    model, tokenizer = loaded(tmp_path)
    texts, options = corpus(3), PassOptions(batch_size=1)
    whole = record(model, tokenizer, texts, options, progress=False)
    first, second = (record(model, tokenizer, part, options, progress=False) for part in (texts[:12], texts[12:]))
    for both in (first.merge(second), second.merge(first)):
        assert both.cells == whole.cells
        assert all(torch.equal(getattr(both, n), getattr(whole, n)) for n in ("texts", "tokens", "fired", "pairs"))
        for name in ("total", "squares", "difference", "difference_squares"):
            torch.testing.assert_close(getattr(both, name), getattr(whole, name), rtol=1e-12, atol=1e-9)
        assert both.header["corpus"]["tokens"] == whole.header["corpus"]["tokens"]


@pytest.mark.parametrize("of", [2, 3])
def test_shards_equal_one_pass(tmp_path: Path, of: int) -> None:
    model, tokenizer = loaded(tmp_path)
    whole = record(model, tokenizer, corpus(3), PassOptions(2), progress=False)
    paths = []
    for shard in reversed(range(of)):
        part = record(model, tokenizer, corpus(3), PassOptions(2, shard=(shard, of)), progress=False)
        paths.append(tmp_path / f"{shard}.safetensors")
        save_statistics(part, paths[-1])
    joined = merged(paths)
    assert joined.header == whole.header, "a corpus' shards together are the corpus"
    assert joined.cells == whole.cells
    assert all(torch.equal(getattr(joined, n), getattr(whole, n)) for n in ("texts", "tokens", "fired", "pairs"))
    with pytest.raises(CVoiceError, match=rf"shards .* of {of}, and 0 is missing"):
        merged(paths[:-1])
    with pytest.raises(CVoiceError, match="do not add up"):
        merged([*paths[:1], *paths])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"name": "n"}}, "different models"),
        ({"settings": {"folds": 9}}, "different settings"),
        ({"shard": {"of": 2, "have": [0], "batch_size": 8}}, "shard of another corpus"),
    ],
)
def test_what_does_not_belong_together_is_not_merged(change: dict[str, Any], message: str) -> None:
    sample = statistics()
    with pytest.raises(CVoiceError, match=message):
        sample.merge(replace(statistics(1), header={**statistics(1).header, **change}))


def test_shards_of_different_cuts_do_not_add_up() -> None:
    one = statistics(0, shard={"of": 2, "have": [0], "batch_size": 8})
    for other in ({"of": 3, "have": [1], "batch_size": 8}, {"of": 2, "have": [1], "batch_size": 4}):
        with pytest.raises(CVoiceError, match="do not add up"):
            one.merge(statistics(1, shard=other))
    both = one.merge(statistics(1, shard={"of": 2, "have": [1], "batch_size": 8}))
    assert "shard" not in both.header
