"""Masks for the tiny models."""

from __future__ import annotations

from intervention.mask import MaskedLayer, ModelIdentity, NeuronMask


def tiny_mask(
    layers: dict[int, tuple[int, ...]],
    *,
    num_layers: int = 3,
    num_neurons: int | None = None,
    architecture: str | None = None,
    means: float | None = None,
    value: str = "integrity",
    name: str | None = None,
) -> NeuronMask:
    """A mask; each neuron's mean is ``means`` plus a tenth of its index, where ``means`` is given."""
    return NeuronMask(
        value=value,
        model=ModelIdentity(name, None, architecture, num_layers, num_neurons),
        layers=tuple(
            MaskedLayer(layer, neurons, None if means is None else tuple(means + n / 10 for n in neurons))
            for layer, neurons in layers.items()
        ),
    )
