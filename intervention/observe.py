"""Watching a model's neurons while it runs: the same for dense layers, shared experts and experts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from cvoice_foundation.errors import CVoiceError
from intervention.experts import Routed, Tap, Watcher, dispatched, fired, tap, undispatched_activations
from intervention.neurons import SHARED, Expert, LayerNeurons, find_neurons


@dataclass(frozen=True)
class Observed:
    """Activations of one MLP, or of all experts of a layer, in one forward pass, before any mask acts.

    Attributes:
        layer: Index of the decoder layer.
        kind: ``dense``, ``shared`` or ``experts``.
        activations: ``[rows, neurons]``, what enters the down projection.
        fired: ``[rows, neurons]`` of bool, whether the activation function's output is positive.
        tokens: ``[rows]`` which token a row is of, as an index into the flattened batch; None where row i is token i.
            A token has a row for each expert that it was routed to.
        experts: ``[rows]`` which expert a row is of, ascending; None for one MLP. Adding up by
            ``(tokens, experts)`` needs no wait for the device.
    """

    layer: int
    kind: Literal["dense", "shared", "experts"]
    activations: torch.Tensor
    fired: torch.Tensor
    tokens: torch.Tensor | None = None
    experts: torch.Tensor | None = None

    def by_expert(self) -> Iterator[tuple[Expert, slice]]:
        """Each MLP that has rows, and its rows. Waits for the device where there are several."""
        if self.experts is None:
            yield (SHARED if self.kind == "shared" else None), slice(None)
            return
        found, counts = torch.unique_consecutive(self.experts, return_counts=True)
        start = 0
        for expert, count in zip(found.tolist(), counts.tolist(), strict=True):
            yield expert, slice(start, start + count)
            start += count


Observer = Callable[[Observed], None]


@contextmanager
def observe(model: nn.Module, observer: Observer) -> Iterator[None]:
    """Hands every layer's activations to a function during a ``with`` block.

    Args:
        model: A transformers decoder of a known architecture.
        observer: Called once a forward pass for each dense MLP and shared expert, and once for all experts of a layer.

    Raises:
        CVoiceError: The architecture is not known.

    Example:
        >>> def count(seen: Observed) -> None:
        ...     for expert, rows in seen.by_expert():
        ...         print(seen.layer, expert, seen.fired[rows].sum(0))
        >>> with observe(model, count):
        ...     model(input_ids)
    """
    with ExitStack() as stack:
        for neurons in find_neurons(model):
            if neurons.experts is None:
                for handle in _watch_projection(neurons, observer):
                    stack.callback(handle.remove)
            elif neurons.expert != 0:
                continue
            elif dispatched(neurons):
                stack.callback(tap(model, neurons, Tap(watcher=_watcher(neurons, observer)), first=True))
            else:
                hook = _undispatched_hook(neurons, observer)
                stack.callback(neurons.module.register_forward_pre_hook(hook, prepend=True).remove)
        yield


def _watch_projection(neurons: LayerNeurons, observer: Observer) -> Iterator[Any]:
    kind: Literal["dense", "shared"] = "shared" if neurons.expert == SHARED else "dense"
    waiting: list[torch.Tensor] = []

    def at_gate(_: nn.Module, __: Any, output: torch.Tensor) -> None:
        gate = output.detach().flatten(0, -2)
        waiting[:] = [(gate[:, : neurons.width] if neurons.fired == "gate_half" else gate) > 0]

    def at_input(_: nn.Module, args: tuple[Any, ...]) -> None:
        # OPT and shared experts flatten batch and sequence, so only the last axis is relied on.
        activations = args[0].detach().flatten(0, -2)
        if neurons.gate is None:
            waiting[:] = [activations > 0]
        elif not waiting:
            raise CVoiceError(f"layer {neurons.layer}: the gate of {neurons.name} was not called before it")
        observer(Observed(neurons.layer, kind, activations, waiting.pop()))

    # In front of every other hook, which may be a mask.
    yield neurons.down.register_forward_pre_hook(at_input, prepend=True)
    if neurons.gate is not None:
        yield neurons.gate.register_forward_hook(at_gate)


def _watcher(neurons: LayerNeurons, observer: Observer) -> Watcher:
    def watch(activations: torch.Tensor, routed: Routed) -> None:
        sign = fired(neurons, routed.gates.detach())
        observer(Observed(neurons.layer, "experts", activations.detach(), sign, routed.tokens, routed.experts))

    return watch


def _undispatched_hook(neurons: LayerNeurons, observer: Observer) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def watch(module: nn.Module, args: tuple[Any, ...]) -> None:
        hidden = args[0].detach()
        activations, gates = undispatched_activations(module, hidden)
        # Every expert is given every token, times zero where it was not routed there.
        experts, tokens = (hidden.view(*activations.shape[:2], -1) != 0).any(-1).nonzero(as_tuple=True)
        rows = (experts, tokens)
        observer(Observed(neurons.layer, "experts", activations[rows], fired(neurons, gates[rows]), tokens, experts))

    return watch
