"""Which masked neurons and experts were active in a run.

Masking a neuron that never fires, or an expert that no token reaches, changes nothing, and a result should say so. A
neuron counts as active once its activation was not zero; an expert's neurons count as active once a token was routed
to the expert. In most models every neuron is active on the first batch; a watch takes itself off as soon as all that
it looks for has been seen, so it costs nothing from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from intervention.experts import routed_experts
from intervention.mask import MaskedLayer
from intervention.neurons import LayerNeurons

_Look = Callable[[tuple[Any, ...]], torch.Tensor]


class _Watch:
    """Watches a module's calls until everything has been seen.

    Args:
        module: The module.
        look: From the arguments of a call to what was active in it, ``[things]`` of bool.
        things: How many there are.
    """

    def __init__(self, module: nn.Module, look: _Look, things: int) -> None:
        self._look, self._things = look, things
        self._seen: torch.Tensor | None = None
        self._calls = 0
        self._next_look = 1
        # Before every other hook: a masking hook would show zeros.
        self.handle = module.register_forward_pre_hook(self._hook, prepend=True)

    def _hook(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        active = self._look(args)
        self._seen = active if self._seen is None else self._seen.to(active.device) | active
        self._calls += 1
        # Reading the answer waits for the device, so read it at calls 1, 2, 4, 8, ... only.
        if self._calls == self._next_look:
            self._next_look *= 2
            if bool(self._seen.all()):
                self.handle.remove()

    @property
    def unseen(self) -> list[int]:
        if self._seen is None:
            return list(range(self._things))
        return (~self._seen).nonzero().flatten().tolist()


class ActivityWatch:
    """Watches the masked neurons of a model from now on.

    Args:
        layers: Where the mask's neurons are, and which of them are masked.
    """

    def __init__(self, layers: Iterable[tuple[LayerNeurons, MaskedLayer]]) -> None:
        self._dense: list[_Watch] = []
        self._routed: list[tuple[_Watch, list[MaskedLayer]]] = []
        by_module: dict[nn.Module, tuple[LayerNeurons, list[MaskedLayer]]] = {}
        for neurons, masked in layers:
            if neurons.experts is None:
                self._dense.append(_Watch(neurons.down, _look_at(masked.neurons), len(masked.neurons)))
            else:
                by_module.setdefault(neurons.module, (neurons, []))[1].append(masked)
        for module, (neurons, of_layer) in by_module.items():
            self._routed.append((_Watch(module, _look_for(neurons, of_layer), len(of_layer)), of_layer))

    @property
    def never_active(self) -> int:
        """How many of the neurons have been exactly zero on every token so far (pads, where they are run, included)."""
        dense = sum(len(watch.unseen) for watch in self._dense)
        return dense + sum(len(masked.neurons) for masked in self._unrouted())

    @property
    def never_active_experts(self) -> int:
        """How many of the experts that have masked neurons no token has been routed to so far."""
        return len(self._unrouted())

    def _unrouted(self) -> list[MaskedLayer]:
        return [of_layer[place] for watch, of_layer in self._routed for place in watch.unseen]

    def remove(self) -> None:
        """Takes the watch off; what it saw stays."""
        for watch in (*self._dense, *(watch for watch, _ in self._routed)):
            watch.handle.remove()


def _look_at(neurons: Iterable[int]) -> _Look:
    index = torch.tensor(tuple(neurons), dtype=torch.long)

    def look(args: tuple[Any, ...]) -> torch.Tensor:
        nonlocal index
        activations = args[0].detach()
        index = index.to(activations.device)
        active: torch.Tensor = (activations.index_select(-1, index) != 0).flatten(0, -2).any(0)
        return active

    return look


def _look_for(neurons: LayerNeurons, masked: list[MaskedLayer]) -> _Look:
    experts = torch.tensor([layer.expert for layer in masked], dtype=torch.long)

    def look(args: tuple[Any, ...]) -> torch.Tensor:
        nonlocal experts
        routed = routed_experts(args, neurons)
        experts = experts.to(routed.device)
        return routed.index_select(0, experts)

    return look
