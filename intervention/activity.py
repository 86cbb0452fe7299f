"""Which masked neurons were active in a run.

Masking a neuron that never fires changes nothing, and a result should say so. A neuron counts as active once its
activation was not zero. In most models every neuron is active on the first batch; the watch on a layer takes itself
off as soon as all of its neurons have been seen, so it costs nothing from then on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


class _LayerWatch:
    def __init__(self, down: nn.Module, neurons: Iterable[int]) -> None:
        self._neurons = torch.tensor(tuple(neurons), dtype=torch.long)
        self.seen: torch.Tensor | None = None
        self._calls = 0
        self._next_look = 1
        # Before every other hook: a masking hook would show zeros.
        self.handle: RemovableHandle = down.register_forward_pre_hook(self._hook, prepend=True)

    def _hook(self, down: nn.Module, args: tuple[Any, ...]) -> None:
        activations = args[0].detach()
        self._neurons = self._neurons.to(activations.device)
        active = (activations.index_select(-1, self._neurons) != 0).flatten(0, -2).any(0)
        self.seen = active if self.seen is None else self.seen.to(active.device) | active
        self._calls += 1
        # Looking waits for the device, so look at calls 1, 2, 4, 8, ... only.
        if self._calls == self._next_look:
            self._next_look *= 2
            if bool(self.seen.all()):
                self.handle.remove()

    @property
    def never_active(self) -> int:
        return len(self._neurons) if self.seen is None else int((~self.seen).sum())


class ActivityWatch:
    """Watches the masked neurons of a model from now on.

    Args:
        layers: (down projection, its masked neurons), one a layer.
    """

    def __init__(self, layers: Iterable[tuple[nn.Module, Iterable[int]]]) -> None:
        self._watches = [_LayerWatch(down, neurons) for down, neurons in layers]

    @property
    def never_active(self) -> int:
        """How many of the neurons have been exactly zero on every token so far (pads, where they are run, included)."""
        return sum(watch.never_active for watch in self._watches)

    def remove(self) -> None:
        """Takes the watch off; what it saw stays."""
        for watch in self._watches:
            watch.handle.remove()
