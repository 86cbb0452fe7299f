"""Reaching the activations of experts, which transformers 5 keeps as slices of one parameter.

There is no down projection to hook. transformers' own way in is its experts interface: a function registered under a
name computes the experts of every layer whose model is set to that name. Ours runs transformers' grouped
implementation on a view of the experts' module whose gating hands the activations to *taps*; modules without a tap run
as they did before. With the last tap gone the model's implementation is what it was.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from cvoice_foundation.errors import CVoiceError
from intervention.neurons import LayerNeurons, base_model

_PREFIX = "cvoice_over_"


@dataclass(frozen=True)
class Routed:
    """Which token and expert each row of a mixture layer's activations belongs to.

    Attributes:
        experts: ``[rows]`` expert indices, ascending; an index past the last expert is another process's.
        tokens: ``[rows]`` indices into the layer's flattened tokens.
        gates: ``[rows, gate_up]`` what the gate and up projections gave, before gating.
    """

    experts: torch.Tensor
    tokens: torch.Tensor
    gates: torch.Tensor


Watcher = Callable[[torch.Tensor, Routed], None]
"""Is shown all activations of a layer's experts, ``[rows, neurons]``, ordered by expert."""


@dataclass(frozen=True, eq=False)
class Tap:
    """A function on the activations of a layer's experts; equal to itself alone, so that taking it off is exact.

    Attributes:
        expert: Whose rows ``operator`` changes.
        operator: ``[rows, neurons]`` to the same shape.
        watcher: Sees all rows and changes nothing; then the other two are None.
    """

    expert: int | None = None
    operator: Callable[[torch.Tensor], torch.Tensor] | None = None
    watcher: Watcher | None = None


_TAPS: WeakKeyDictionary[nn.Module, list[Tap]] = WeakKeyDictionary()
_TAPPED_MODELS: WeakKeyDictionary[nn.Module, tuple[dict[str, str | None], int]] = WeakKeyDictionary()


def tap(model: nn.Module, neurons: LayerNeurons, entry: Tap, *, first: bool = False) -> Callable[[], None]:
    """Lets a function see or change the activations of a layer's experts.

    Args:
        model: The model.
        neurons: Any expert's neurons of the layer.
        entry: The function.
        first: Whether it comes before the taps that are there, not behind them.

    Returns:
        A function that takes the tap off.

    Raises:
        CVoiceError: The experts do not run through transformers' experts interface.
    """
    whole: Any = base_model(model)
    if not dispatched(neurons):
        raise CVoiceError(
            f"layer {neurons.layer}: these {whole.config.model_type} experts do not run through transformers' "
            "experts interface, so their activations cannot be reached"
        )
    taps = _TAPS.setdefault(neurons.module, [])
    taps.insert(0 if first else len(taps), entry)
    _enter(whole)

    def undo() -> None:
        if entry in taps:
            taps.remove(entry)
            _leave(whole)

    return undo


@contextmanager
def held(model: nn.Module, neurons: Iterable[LayerNeurons]) -> Iterator[None]:
    """Keeps a model set to our implementation for a while: each change looks through all of its modules."""
    whole: Any = base_model(model)
    if not any(dispatched(mlp) for mlp in neurons):
        yield
        return
    _enter(whole)
    try:
        yield
    finally:
        _leave(whole)


def dispatched(neurons: LayerNeurons) -> bool:
    """Whether an expert's activations can be reached."""
    return neurons.experts is not None and neurons.experts.dispatched and hasattr(neurons.module, "is_transposed")


def _enter(model: Any) -> None:
    before, users = _TAPPED_MODELS.get(model, (None, 0))
    if before is None:
        before = dict(model.get_experts_implementation())
        for name in set(before.values()):
            ALL_EXPERTS_FUNCTIONS.register(f"{_PREFIX}{name}", functools.partial(_forward, name))
        model.set_experts_implementation({key: f"{_PREFIX}{name}" for key, name in before.items()})
    _TAPPED_MODELS[model] = (before, users + 1)


def _leave(model: Any) -> None:
    before, users = _TAPPED_MODELS[model]
    if users > 1:
        _TAPPED_MODELS[model] = (before, users - 1)
        return
    del _TAPPED_MODELS[model]
    model.set_experts_implementation(before)


def _forward(
    before: str | None, module: Any, hidden: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """The registered implementation.

    Args:
        before: The implementation that the model had.
        module: The experts of one layer.
        hidden: ``[tokens, hidden]``.
        top_k_index: ``[tokens, k]`` expert indices.
        top_k_weights: ``[tokens, k]`` routing weights.
    """
    taps = _TAPS.get(module)
    if not taps:
        as_before = ALL_EXPERTS_FUNCTIONS.get_interface(before, type(module).forward.__wrapped__)
        output: torch.Tensor = as_before(module, hidden, top_k_index, top_k_weights)
        return output
    # The grouped implementation orders its rows by this same sort, so the rows' order is known.
    experts, order = torch.sort(top_k_index.reshape(-1))
    tokens = order // top_k_index.shape[-1]
    grouped = ALL_EXPERTS_FUNCTIONS["grouped_mm"]
    return grouped(_Tapped(module, list(taps), experts, tokens), hidden, top_k_index, top_k_weights)  # type: ignore[no-any-return]


class _Tapped:
    """An experts' module as transformers' implementation sees it, but for the gating."""

    def __init__(self, module: Any, taps: list[Tap], experts: torch.Tensor, tokens: torch.Tensor) -> None:
        self._module, self._taps, self._experts, self._tokens = module, taps, experts, tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def _apply_gate(self, gates: torch.Tensor) -> torch.Tensor:
        activations: torch.Tensor = self._module._apply_gate(gates)
        for changing, taps in itertools.groupby(self._taps, key=lambda entry: entry.watcher is None):
            if changing:
                activations = self._change(activations, list(taps))
            else:
                routed = Routed(self._experts, self._tokens, gates)
                for entry in taps:
                    assert entry.watcher is not None
                    entry.watcher(activations, routed)
        return activations

    def _change(self, activations: torch.Tensor, taps: list[Tap]) -> torch.Tensor:
        """Waits for the device once, for where each expert's rows are."""
        sizes = torch.bincount(self._experts, minlength=len(self._module.down_proj)).tolist()
        pieces = list(torch.split(activations, sizes))
        for entry in taps:
            assert entry.expert is not None
            assert entry.operator is not None
            if sizes[entry.expert]:
                pieces[entry.expert] = entry.operator(pieces[entry.expert])
        return torch.cat(pieces)


def fired(neurons: LayerNeurons, gates: torch.Tensor) -> torch.Tensor:
    """Whether each neuron of an expert fires, ``[rows, neurons]``, from ``gate_up_proj``'s output."""
    return (gates[..., ::2] if neurons.fired == "gate_even" else gates[..., : neurons.width]) > 0


def undispatched_activations(module: Any, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Llama 4's experts, computed as its forward pass does, up to the down projection.

    Args:
        module: The experts of one layer.
        hidden: ``[experts * tokens, hidden]``, every token once for each expert.

    Returns:
        Activations ``[experts, tokens, neurons]`` and ``gate_up_proj``'s output.
    """
    gates = torch.bmm(hidden.view(module.gate_up_proj.shape[0], -1, module.hidden_size), module.gate_up_proj)
    gate, up = gates.chunk(2, dim=-1)
    return up * module.act_fn(gate), gates


def routed_experts(args: tuple[Any, ...], neurons: LayerNeurons) -> torch.Tensor:
    """Which experts of a layer were given a token, ``[experts]`` of bool, from the arguments of its experts' module."""
    count = len(neurons.module.down_proj)  # type: ignore[arg-type]
    if dispatched(neurons):
        index = next(x for x in args[1:] if isinstance(x, torch.Tensor) and not x.is_floating_point())
        hit = torch.zeros(count + 1, dtype=torch.bool, device=index.device)
        return hit.index_fill(0, index.reshape(-1).clamp(max=count), True)[:count]
    # Llama 4 hands every token to every expert, times zero where it is not routed there.
    hidden: torch.Tensor = args[0]
    return (hidden.view(count, -1) != 0).any(-1)
