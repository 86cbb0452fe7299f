"""The places where a mask acts, behind one face: a down projection, or one expert's slice of a parameter.

A site can be *called* on given activations, which is how a mask's proof (law 1) reaches the very computation that a
forward pass runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn

from cvoice_foundation.errors import CVoiceError
from intervention.experts import Tap, dispatched, tap, undispatched_activations
from intervention.modes import Operator
from intervention.neurons import LayerNeurons, expert_label


class Site(Protocol):
    """Where the neurons of one MLP enter its down projection."""

    neurons: LayerNeurons

    def check_hookable(self) -> None:
        """Refuses a mask that cannot be folded where nothing else can act."""

    def probe(self) -> torch.Tensor:
        """Random activations ``[..., neurons]`` in the site's own dtype, on its device."""

    def call(self, activations: torch.Tensor) -> torch.Tensor:
        """What the model makes of activations, with every mask in force."""

    def shifted(self, activations: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """Activations with this site's own part of them moved."""

    def hook(self, operator: Operator) -> Callable[[], None]:
        """Changes the activations from now on, behind what changes them already; returns the undo."""

    def expected(self, operator: Operator) -> torch.Tensor:
        """What :meth:`call` on the probe should give once an operator is in force."""


def site_of(neurons: LayerNeurons, model: nn.Module) -> Site:
    """The site of a layer's neurons."""
    if neurons.experts is None:
        return _ProjectionSite(neurons, model)
    return _ExpertSite(neurons, model) if dispatched(neurons) else _BatchedExpertSite(neurons, model)


class _ProjectionSite:
    def __init__(self, neurons: LayerNeurons, model: nn.Module) -> None:
        self.neurons, self._model = neurons, model

    def check_hookable(self) -> None:
        pass

    def probe(self) -> torch.Tensor:
        return _random(self.neurons, self._model, (1, 2, self.neurons.width))

    def call(self, activations: torch.Tensor) -> torch.Tensor:
        return _finite(self.neurons, self.neurons.down(activations))

    def shifted(self, activations: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return activations + shift

    def hook(self, operator: Operator) -> Callable[[], None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (operator(args[0]), *args[1:])

        return self.neurons.down.register_forward_pre_hook(hook).remove

    def expected(self, operator: Operator) -> torch.Tensor:
        undo = self.hook(operator)
        try:
            return self.call(self.probe())
        finally:
            undo()


class _ExpertSite:
    """An expert behind transformers' experts interface.

    The direct call sends every other token to another expert: a mask that acted on the wrong rows would change those.
    """

    def __init__(self, neurons: LayerNeurons, model: nn.Module) -> None:
        assert isinstance(neurons.expert, int)
        self.neurons, self._model, self._expert = neurons, model, neurons.expert
        self._other = 0 if neurons.expert else len(neurons.module.down_proj) - 1  # type: ignore[arg-type]

    def check_hookable(self) -> None:
        pass

    def probe(self) -> torch.Tensor:
        return _random(self.neurons, self._model, (4 if self._other == self._expert else 2, self.neurons.width))

    def call(self, activations: torch.Tensor) -> torch.Tensor:
        undo = tap(self._model, self.neurons, Tap(self._expert, lambda _: activations), first=True)
        hidden = _random(self.neurons, self._model, (4, _hidden_size(self.neurons)))
        index = torch.tensor([[self._expert], [self._other]] * 2, device=hidden.device)
        try:
            output = self.neurons.module(hidden, index, torch.ones_like(index, dtype=hidden.dtype))
        finally:
            undo()
        return _finite(self.neurons, output)

    def shifted(self, activations: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return activations + shift

    def hook(self, operator: Operator) -> Callable[[], None]:
        return tap(self._model, self.neurons, Tap(self._expert, operator))

    def expected(self, operator: Operator) -> torch.Tensor:
        undo = self.hook(operator)
        try:
            return self.call(self.probe())
        finally:
            undo()


class _BatchedExpertSite:
    """An expert of Llama 4, whose forward pass gives no way to its activations: only its weights can be changed."""

    def __init__(self, neurons: LayerNeurons, model: nn.Module) -> None:
        assert isinstance(neurons.expert, int)
        self.neurons, self._expert = neurons, neurons.expert
        count = len(neurons.module.down_proj)  # type: ignore[arg-type]
        self._hidden = _random(neurons, model, (2 * count, _hidden_size(neurons)))

    def check_hookable(self) -> None:
        raise CVoiceError(
            f"layer {self.neurons.layer}, {expert_label(self.neurons.expert)}: these experts do not run through "
            "transformers' experts interface, so only mode=zero, and mode=scale with a power of two, act on them, and "
            "on plain weights only; mask other layers or use one of those modes"
        )

    def probe(self) -> torch.Tensor:
        """The activations that random tokens have: the module takes no others."""
        return undispatched_activations(self.neurons.module, self._hidden)[0]

    def call(self, activations: torch.Tensor) -> torch.Tensor:
        module: Any = self.neurons.module
        if torch.equal(activations, self.probe()):
            return _finite(self.neurons, module(self._hidden))
        # Other activations than those of the random tokens: the forward pass's own last step.
        return _finite(self.neurons, torch.bmm(activations, module.down_proj).view(-1, module.hidden_size))

    def expected(self, operator: Operator) -> torch.Tensor:
        activations = self.probe().clone()
        activations[self._expert] = operator(activations[self._expert])
        return self.call(activations)

    def shifted(self, activations: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        moved = activations.clone()
        moved[self._expert] += shift[self._expert]
        return moved

    def hook(self, operator: Operator) -> Callable[[], None]:
        raise NotImplementedError


def _hidden_size(neurons: LayerNeurons) -> int:
    weights = neurons.module.down_proj
    assert isinstance(weights, torch.Tensor)
    assert neurons.experts is not None
    return int(weights.shape[2 - neurons.experts.axis])


def _random(neurons: LayerNeurons, model: nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    weight = neurons.weight
    floating = weight is not None and weight.is_floating_point()
    dtype = weight.dtype if floating and weight is not None else getattr(model, "dtype", torch.float32)
    device = weight.device if weight is not None and not weight.is_meta else torch.device("cpu")
    generator = torch.Generator().manual_seed(neurons.layer)
    return torch.randn(shape, generator=generator).to(device, dtype)


def _finite(neurons: LayerNeurons, output: object) -> torch.Tensor:
    assert isinstance(output, torch.Tensor)
    if not bool(torch.isfinite(output).all()):
        raise CVoiceError(f"layer {neurons.layer}: {neurons.name} gives values that are not finite; check the weights")
    return output
