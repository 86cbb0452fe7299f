"""Finds the neurons of a model: the rows of the table in :mod:`intervention.architectures`, met with modules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cvoice_foundation.errors import CVoiceError
from intervention.architectures import (
    SHARED,
    Architecture,
    Expert,
    Experts,
    Fired,
    Projection,
    architecture_of,
    known_architectures,
    register_neurons,
)

__all__ = [
    "SHARED",
    "Architecture",
    "Expert",
    "Experts",
    "Fired",
    "LayerNeurons",
    "Projection",
    "architecture_of",
    "base_model",
    "expert_label",
    "find_neurons",
    "known_architectures",
    "register_neurons",
]


@dataclass(frozen=True, slots=True)
class LayerNeurons:
    """The neurons of one MLP of a model.

    Attributes:
        layer: Index of the decoder layer.
        name: Path of the down projection in the model; of the experts' module, for an expert.
        module: The down projection, whose input is ``[..., width]``; for an expert, the module of all experts.
        width: Number of neurons.
        gate: The module whose output is the gate, or None.
        fired: Whose sign says that a neuron fires.
        expert: Which MLP of the layer: None in a dense layer, an expert's index, or ``"shared"``.
        experts: The table's row of an expert; None for an MLP with modules of its own.
    """

    layer: int
    name: str
    module: nn.Module
    width: int
    gate: nn.Module | None
    fired: Fired
    expert: Expert = None
    experts: Experts | None = None

    @property
    def down(self) -> nn.Module:
        """The down projection.

        Raises:
            CVoiceError: An expert's is a slice of a parameter, not a module.
        """
        if self.experts is not None:
            raise CVoiceError(
                f"layer {self.layer}, {expert_label(self.expert)}: experts have no down projection of their own; "
                "watch them with intervention.observe"
            )
        return self.module

    @property
    def weight(self) -> torch.Tensor | None:
        """The down projection's weight, ``[out, in]`` or ``[in, out]`` (see :attr:`axis`); None where it has none."""
        if self.experts is None:
            weight = getattr(self.module, "weight", None)
            return weight if isinstance(weight, torch.Tensor) else None
        assert isinstance(self.expert, int)
        weights: Any = self.module.down_proj
        slice_of_expert: torch.Tensor = weights[self.expert]
        return slice_of_expert

    @property
    def axis(self) -> int:
        """Which axis of the weight holds the neurons. GPT-2's Conv1D is ``[in, out]`` and has no ``in_features``."""
        if self.experts is not None:
            return self.experts.axis
        return 1 if hasattr(self.module, "in_features") else 0


def expert_label(expert: Expert) -> str:
    """``expert 5``, ``the shared expert`` or ``dense``: for messages."""
    return "dense" if expert is None else "the shared expert" if expert == SHARED else f"expert {expert}"


def base_model(model: nn.Module) -> nn.Module:
    """The transformers model inside a compiled or PEFT-wrapped one; the model itself if it is neither."""
    inner: Any = getattr(model, "_orig_mod", model)
    if hasattr(inner, "get_base_model"):
        inner = inner.get_base_model()
    assert isinstance(inner, nn.Module)
    return inner


def find_neurons(model: nn.Module) -> list[LayerNeurons]:
    """Finds the neurons of every layer of a model, and checks that they are where the table says.

    Args:
        model: A transformers decoder, plain or wrapped by PEFT or torch.compile. Of a multimodal model, the language
            tower is meant.

    Returns:
        One entry an MLP: one a layer in a dense model; in a mixture layer one an expert, ascending, then the shared
        expert's. Widths are taken from the modules, never from the configuration.

    Raises:
        CVoiceError: The architecture is not known, or the model does not have the parts that its row names.
    """
    return list(_neurons_by_layer(base_model(model)))


def _neurons_by_layer(model: nn.Module) -> Iterator[LayerNeurons]:
    config: Any = model.config
    architecture = architecture_of(config)
    try:
        layers = model.get_submodule(architecture.layers)
        assert isinstance(layers, nn.ModuleList)
        for index, layer in enumerate(layers):
            where = f"{architecture.layers}.{index}"
            yield from _neurons_of_layer(architecture, layer, index, where)
    except AttributeError as error:
        raise CVoiceError(
            f"this {config.model_type} model does not have the parts of a {config.model_type} ({error}); "
            "load it with transformers >= 5, or name its parts with intervention.neurons.register_neurons(...)"
        ) from None


def _neurons_of_layer(architecture: Architecture, layer: nn.Module, index: int, where: str) -> Iterator[LayerNeurons]:
    experts = architecture.experts
    if experts is None or (architecture.down and not _has(layer, experts.module)):
        assert architecture.down is not None
        dense = Projection(architecture.down, architecture.gate, architecture.fired)
        yield _projection(dense, None, layer, index, where)
        return
    module = layer.get_submodule(experts.module)
    weights = module.down_proj
    if not isinstance(weights, torch.Tensor) or weights.ndim != 3:
        raise AttributeError(f"{where}.{experts.module}.down_proj is not one 3-D parameter")
    for expert in range(weights.shape[0]):
        name = f"{where}.{experts.module}"
        width = weights.shape[1 + experts.axis]
        yield LayerNeurons(index, name, module, width, None, experts.fired, expert, experts)
    if architecture.shared is not None and _has(layer, architecture.shared.down):
        yield _projection(architecture.shared, SHARED, layer, index, where)


def _projection(row: Projection, expert: Expert, layer: nn.Module, index: int, where: str) -> LayerNeurons:
    down = layer.get_submodule(row.down)
    gate = layer.get_submodule(row.gate) if row.gate else None
    return LayerNeurons(index, f"{where}.{row.down}", down, _input_width(down), gate, row.fired, expert)


def _has(layer: nn.Module, path: str) -> bool:
    try:
        layer.get_submodule(path)
    except AttributeError:
        return False
    return True


def _input_width(down: nn.Module) -> int:
    """Length of the input's last axis. GPT-2's Conv1D is ``[in, out]`` and has no ``in_features``."""
    width = getattr(down, "in_features", None)
    if width is None:
        weight = down.weight
        assert isinstance(weight, torch.Tensor)
        width = weight.shape[0]
    return int(width)
