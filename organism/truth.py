"""The neurons that were reserved for each value: the truth that methods are judged by."""

from __future__ import annotations

from cvoice_tasks.values import VALUE_KEYS
from intervention.mask import MaskedLayer, ModelIdentity, NeuronMask

ARCHITECTURE = "Qwen2ForCausalLM"


def truth_mask(value: str, layers: int, neurons: int, reserved: int, model: str | None = None) -> NeuronMask:
    """The neurons that are reserved for a value.

    Args:
        value: A key of ``VALUE_KEYS``, or ``control`` for the set that nothing is taught about.
        layers: Of the model.
        neurons: In each layer.
        reserved: In each layer for each value.
        model: The model's name, as the mask's header tells it.
    """
    start = (*VALUE_KEYS, "control").index(value) * reserved
    lines = tuple(MaskedLayer(layer, tuple(range(start, start + reserved))) for layer in range(layers))
    identity = ModelIdentity(model, None, ARCHITECTURE, layers, neurons)
    return NeuronMask(value, identity, lines, method={"name": "reserved", "neurons_a_layer": reserved})
