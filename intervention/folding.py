"""Masking at no cost: a neuron's column of the down projection's weight multiplied by a factor, and put back.

Zeroing neuron j at the projection's input equals zeroing column j of its weight, bit for bit; a power of two likewise.
Several masks may be folded into one module, overlap, and be taken off in any order: a column is always computed from
its original and the factors that are in force, never from what the last mask left.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

_TOKENS = itertools.count()


def foldable(down: nn.Module) -> bool:
    """Whether a down projection's weight is a plain floating tensor in memory: not quantised, offloaded or wrapped."""
    weight = getattr(down, "weight", None)
    return (
        # A subclass may compute its weight (adapters, quantisation); Falcon's only adds a reshape.
        (type(down) in (nn.Linear, Conv1D) or type(down).__name__ == "FalconLinear")
        and type(weight) is nn.Parameter
        and weight.is_floating_point()
        and weight.dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
        and not weight.is_meta
        # accelerate moves an offloaded module's weights in and out around its forward pass.
        and not hasattr(down, "_hf_hook")
    )


class _Columns:
    """The columns of one module that masks have changed."""

    def __init__(self, down: nn.Module) -> None:
        self._axis = 0 if isinstance(down, Conv1D) else 1
        self._originals: dict[int, torch.Tensor] = {}
        self._factors: dict[int, tuple[frozenset[int], float]] = {}

    def add(self, weight: torch.Tensor, neurons: Sequence[int], factor: float) -> int:
        missing = [neuron for neuron in neurons if neuron not in self._originals]
        if missing:
            saved = weight.index_select(self._axis, torch.tensor(missing, device=weight.device))
            self._originals.update(zip(missing, saved.unbind(self._axis), strict=True))
        token = next(_TOKENS)
        self._factors[token] = (frozenset(neurons), factor)
        self._write(weight, neurons)
        return token

    def take_off(self, weight: torch.Tensor, token: int) -> None:
        neurons, _ = self._factors.pop(token)
        self._write(weight, sorted(neurons))
        for neuron in neurons.difference(*(others for others, _ in self._factors.values())):
            del self._originals[neuron]

    def _write(self, weight: torch.Tensor, neurons: Sequence[int]) -> None:
        index = torch.tensor(neurons, device=weight.device)
        originals = [self._originals[neuron].to(weight.device, weight.dtype) for neuron in neurons]
        scales = [self._factor(neuron) for neuron in neurons]
        columns = [
            # -0.0 and the NaN of 0 * inf would not be what "switched off" means.
            torch.zeros_like(column) if scale == 0 else column if scale == 1 else column * scale
            for column, scale in zip(originals, scales, strict=True)
        ]
        weight.index_copy_(self._axis, index, torch.stack(columns, dim=self._axis))

    def _factor(self, neuron: int) -> float:
        return math.prod(factor for neurons, factor in self._factors.values() if neuron in neurons)


_COLUMNS: WeakKeyDictionary[nn.Module, _Columns] = WeakKeyDictionary()


@torch.no_grad()
def fold(down: nn.Module, neurons: Sequence[int], factor: float) -> Callable[[], None]:
    """Multiplies neurons' columns by a factor, in place.

    Args:
        down: A foldable down projection.
        neurons: Indices into its input's last axis.
        factor: 0 or a power of two, so that the result is exact.

    Returns:
        A function that takes this factor off again; with the last one gone the weight is as before, to the bit.
    """
    weight = down.weight
    assert isinstance(weight, nn.Parameter)
    columns = _COLUMNS.setdefault(down, _Columns(down))
    token = columns.add(weight.data, neurons, factor)

    @torch.no_grad()
    def undo() -> None:
        assert isinstance(down.weight, nn.Parameter)
        columns.take_off(down.weight.data, token)

    return undo
