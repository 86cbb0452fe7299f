"""Woven rows: what is shared stands once, and every sequence sees itself alone."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Qwen2Config, Qwen2ForCausalLM

from organism.weaving import plain_attention, weave

TOKENS = st.lists(st.integers(1, 5), min_size=1, max_size=6)


@given(st.lists(st.lists(TOKENS, min_size=1, max_size=3), min_size=1, max_size=3))
def test_each_sequence_can_be_read_out_of_its_row_and_sees_its_own_beginning_alone(
    groups: list[list[list[int]]],
) -> None:
    woven = weave(groups)
    number = 0
    for row, sequences in enumerate(groups):
        for sequence in sequences:
            columns = woven.columns[number, : woven.lengths[number]]
            assert int(woven.rows[number]) == row
            assert woven.tokens[row, columns].tolist() == sequence
            assert woven.positions[row, columns].tolist() == list(range(len(sequence)))
            for place, column in enumerate(columns.tolist()):
                seen = (woven.sees[row, 0, column] == 0).nonzero().flatten().tolist()
                assert seen == columns[: place + 1].tolist()
            number += 1
    assert number == len(woven.rows)


def test_what_is_shared_stands_once() -> None:
    woven = weave([[(1, 2, 3, 4), (1, 2, 5)], [(6,), (6, 7)]])
    assert woven.tokens.tolist() == [[1, 2, 3, 4, 5], [6, 7, 0, 0, 0]]


@torch.no_grad()
def test_plain_attention_gives_the_same_and_is_taken_off_again() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "vocab_size": 20}
    model = Qwen2ForCausalLM(Qwen2Config(**sizes, num_attention_heads=2, num_key_value_heads=2, initializer_range=0.5))
    woven = weave([[(1, 2, 3, 4), (1, 2, 5)], [(6,), (6, 7)]])
    before, fused = model.config._attn_implementation, woven.hidden(model)
    with plain_attention(model):
        assert model.config._attn_implementation != before
        assert torch.allclose(woven.hidden(model), fused, atol=1e-5)
    assert model.config._attn_implementation == before
