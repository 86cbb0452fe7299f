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

from intervention.neurons import Expert, LayerNeurons

_TOKENS = itertools.count()


def foldable(neurons: LayerNeurons) -> bool:
    """Whether a weight is a plain floating tensor that lies here: not quantised, not offloaded, not wrapped."""
    module = neurons.module
    if neurons.experts is None:
        weight = getattr(module, "weight", None)
        # A subclass may compute its weight (adapters, quantisation); Falcon's only adds a reshape.
        if type(module) not in (nn.Linear, Conv1D) and type(module).__name__ != "FalconLinear":
            return False
    else:
        weight = module.down_proj
    return (
        type(weight) is nn.Parameter
        and weight.dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
        and not weight.is_meta
        # accelerate moves an offloaded module's weights in and out around its forward pass; a parent's hook may do
        # the same for the modules below it, and then leaves them on the meta device in between.
        and not hasattr(module, "_hf_hook")
    )


class _Columns:
    """The columns of one weight matrix that masks have changed."""

    def __init__(self, axis: int) -> None:
        self._axis = axis
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

    @property
    def changed(self) -> frozenset[int]:
        return frozenset(self._originals)

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


_COLUMNS: WeakKeyDictionary[nn.Module, dict[Expert, _Columns]] = WeakKeyDictionary()


def stays_exact(neurons: LayerNeurons, indices: Sequence[int], factor: float) -> bool:
    """Whether a factor changes the columns without rounding: a power of two can still over- or underflow."""
    if factor == 0:
        return True
    columns = _weight(neurons).index_select(neurons.axis, torch.tensor(indices, device=_weight(neurons).device))
    return bool(torch.equal(columns * factor / factor, columns))


def folded_neurons(neurons: LayerNeurons) -> frozenset[int]:
    """Neurons of an MLP whose columns a mask in force has changed."""
    columns = _COLUMNS.get(neurons.module, {}).get(neurons.expert)
    return frozenset() if columns is None else columns.changed


@torch.no_grad()
def fold(neurons: LayerNeurons, indices: Sequence[int], factor: float) -> Callable[[], None]:
    """Multiplies neurons' columns by a factor, in place.

    Args:
        neurons: A foldable MLP of a layer.
        indices: Which of its neurons.
        factor: 0 or a power of two, so that the result is exact.

    Returns:
        A function that takes this factor off again; with the last one gone the weight is as before, to the bit.
    """
    columns = _COLUMNS.setdefault(neurons.module, {}).setdefault(neurons.expert, _Columns(neurons.axis))
    token = columns.add(_weight(neurons), indices, factor)

    @torch.no_grad()
    def undo() -> None:
        columns.take_off(_weight(neurons), token)

    return undo


def _weight(neurons: LayerNeurons) -> torch.Tensor:
    weight = neurons.weight
    assert weight is not None
    return weight.data
