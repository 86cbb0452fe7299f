"""Masks for the tiny models."""

from __future__ import annotations

from intervention.architectures import Expert
from intervention.mask import MaskedLayer, ModelIdentity, NeuronMask


def tiny_mask(
    layers: dict[int, tuple[int, ...]] | dict[tuple[int, Expert], tuple[int, ...]],
    *,
    num_layers: int = 3,
    num_neurons: int | None = None,
    architecture: str | None = None,
    means: float | None = None,
    value: str = "integrity",
    name: str | None = None,
) -> NeuronMask:
    """A mask, by layer or by (layer, expert); a neuron's mean is ``means``, where given, plus a tenth of its index."""
    lines = [
        MaskedLayer(
            place if isinstance(place, int) else place[0],
            neurons,
            None if means is None else tuple(means + n / 10 for n in neurons),
            None if isinstance(place, int) else place[1],
        )
        for place, neurons in layers.items()
    ]
    return NeuronMask(
        value=value,
        model=ModelIdentity(name, None, architecture, num_layers, num_neurons),
        layers=tuple(sorted(lines, key=lambda line: line.place)),
    )
