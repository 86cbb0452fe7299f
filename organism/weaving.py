"""Sequences that begin alike in one row: the shared beginning is computed once, each ending sees it and itself alone.

Both orders of a story's options, and both of its acts as texts, follow the same story; told apart by a mask, they cost
little more than one of them, and the numbers are those of each sequence alone, but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from transformers import AttentionInterface

_PAD = -1
"""Branch of a place behind the last ending."""


@dataclass(frozen=True, slots=True)
class Woven:
    """Rows in which sequences share their beginning.

    Attributes:
        tokens: [rows, longest].
        positions: Of each token in its own sequence [rows, longest].
        sees: 0 where a place sees another one, else minus infinity [rows, 1, longest, longest].
        rows: Row of each sequence [sequences].
        columns: Places of each sequence's tokens in its row [sequences, longest sequence]; 0 behind its end.
        lengths: Tokens of each sequence [sequences].
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    sees: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    lengths: torch.Tensor

    def hidden(self, model: Any) -> torch.Tensor:
        """The last layer's output behind the final norm [rows, longest, hidden]."""
        kind = model.device.type
        # In the precision of the matrices: added to attention scores, a wider mask would widen them too.
        sees = self.sees.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else self.sees
        found: torch.Tensor = model.model(
            input_ids=self.tokens, attention_mask=sees, position_ids=self.positions, use_cache=False
        ).last_hidden_state
        return found


def weave(groups: Sequence[Sequence[Sequence[int]]]) -> Woven:
    """Puts each group's sequences into one row.

    Args:
        groups: By row, the token sequences in it; none may be empty.

    Returns:
        The rows; sequences are numbered group by group.
    """
    rows: list[list[tuple[int, int, int]]] = []
    columns: list[list[int]] = []
    owners: list[int] = []
    for number, sequences in enumerate(groups):
        shared = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*sequences, strict=False)))
        row = [(token, place, 0) for place, token in enumerate(sequences[0][:shared])]
        for branch, sequence in enumerate(sequences, start=1):
            columns.append([*range(shared), *range(len(row), len(row) + len(sequence) - shared)])
            row += [(token, shared + place, branch) for place, token in enumerate(sequence[shared:])]
            owners.append(number)
        rows.append(row)
    longest = max(map(len, rows))
    # A pad is a branch of its own: nothing else sees it, and it sees itself, so that no row of the softmax is empty.
    told = torch.tensor([row + [(0, 0, _PAD)] * (longest - len(row)) for row in rows])
    tokens, positions, branches = told.unbind(-1)
    mine, theirs = branches[:, :, None], branches[:, None, :]
    apart = ~((theirs == 0) | (theirs == mine)).tril()
    sees = torch.zeros(apart.shape).masked_fill(apart, -torch.inf)
    lengths = [len(of_sequence) for of_sequence in columns]
    most = max(lengths)
    return Woven(
        tokens,
        positions,
        sees[:, None],
        torch.tensor(owners),
        torch.tensor([of_sequence + [0] * (most - len(of_sequence)) for of_sequence in columns]),
        torch.tensor(lengths),
    )


_NAME = "organism_plain"


def _plain_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as matrix products, with as many key heads as query heads."""
    weights = ((query * scaling) @ key.transpose(2, 3) + attention_mask).softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(_NAME, _plain_attention)


@contextmanager
def plain_attention(model: Any) -> Iterator[None]:
    """Trains woven rows half as fast again on a CPU, where the fused attention's backward pass is slow."""
    before = model.config._attn_implementation
    model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
