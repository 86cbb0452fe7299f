"""Texts of items, folds and the fixed plan of a pass."""

from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from cvoice_tasks.items import Item
from locate.corpus import NUM_FOLDS, STANCES, Text, Tokens, corpus_sha256, fold_of, padded, plan, texts_of, tokenize
from locate.segments import NO_PART
from tests.items_for_tests import twin_lines
from tests.locate.corpora import corpus, loaded


def test_a_story_is_read_with_each_of_its_acts() -> None:
    line = twin_lines("integrity", 1, "en")[0] | {"rationale": "Because she promised."}
    upheld, given_up = texts_of([Item(**line)], "en")
    assert upheld == Text(
        "integrity", "en", "aligned", "integrity-0001", line["story"], line["aligned"], "Because she promised."
    )
    assert given_up == Text("integrity", "en", "violating", "integrity-0001", line["story"], line["violating"], "")
    assert upheld.text == f"{line['story']}\n{line['aligned']}\nBecause she promised."
    assert texts_of([Item(**line)], "en", ["violating"]) == [given_up]
    assert corpus_sha256([upheld]) != corpus_sha256([given_up])


def test_folds_keep_pairs_whole_and_values_alike() -> None:
    assert [fold_of(f"integrity-{n}") for n in (1001, 1002, 1032)] == [
        1001 % NUM_FOLDS,
        1002 % NUM_FOLDS,
        1032 % NUM_FOLDS,
    ]
    assert fold_of("integrity-1001") == fold_of("freedom-1001")
    assert fold_of("an id without number") == fold_of("an id without number")
    assert 0 <= fold_of("x", 5) < 5


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 9), st.integers(0, 1000))
def test_the_plan_reads_every_text_once_and_keeps_pairs_together(sizes: list[int], batch: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    texts, tokens = [], []
    for number, size in enumerate(sizes):
        for row in range(size + 1):
            texts.append(Text("integrity", "en", STANCES[row % 2], f"integrity-{number:04d}", "s", "a"))
            length = int(torch.randint(1, 50, (), generator=generator))
            tokens.append(Tokens([1] * length, [0] * length))  # type: ignore[arg-type]
    groups = plan(texts, tokens, batch)
    assert sorted(row for group in groups for row in group.rows) == list(range(len(texts)))
    for group in groups:
        covered = [place for start, end in group.batches for place in range(start, end)]
        assert covered == list(range(len(group.rows)))
        assert all(0 < end - start <= batch for start, end in group.batches)
        lengths = [len(tokens[row]) for row in group.rows]
        assert lengths == sorted(lengths, reverse=True)
        pairs = {texts[row].pair for row in group.rows}
        assert len(pairs) == len(set(group.units))
        for other in groups:
            assert other is group or not pairs & {texts[row].pair for row in other.rows}
    longest = [max(len(tokens[row]) for row in group.rows) for group in groups]
    assert longest == sorted(longest, reverse=True)


def test_padding_counts_for_no_part(tmp_path: Path) -> None:
    _, tokenizer = loaded(tmp_path)
    tokens = tokenize(corpus(1), tokenizer, chat=False, max_length=128)
    ids, attention, codes = padded(tokens)
    for row, of_text in enumerate(tokens):
        assert ids[row, : len(of_text)].tolist() == list(of_text.ids)
        assert attention[row].sum() == len(of_text)
        assert codes[row, : len(of_text)].tolist() == list(of_text.codes)
        assert set(codes[row, len(of_text) :].tolist()) <= {NO_PART}
