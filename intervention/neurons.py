"""Where each architecture keeps its neurons: a table of data.

A neuron is one coordinate of the input of an MLP's down projection, in gated and ungated MLPs alike. It *fires* on a
token when its activation function's output is positive (LAPE, arXiv 2402.16438, section 2.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn

from cvoice_foundation.errors import CVoiceError, suggestion

Fired = Literal["gate", "gate_half", "input"]
"""Whose sign says that a neuron fires: the gate projection's output; its first half, where gate and up projection are
one module; the down projection's input, where there is no gate."""

# act(x) > 0 exactly where x > 0, so the sign can be read before the activation function.
_SIGN_KEEPING = frozenset(
    ("silu", "swish", "relu", "relu2", "gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh")
    + ("gelu_accurate", "quick_gelu")
)
_ACTIVATION_KEYS = ("hidden_activation", "hidden_act", "activation_function", "activation")


@dataclass(frozen=True, slots=True)
class Architecture:
    """Names of the parts of one architecture's MLPs.

    Attributes:
        layers: Path of the list of decoder layers.
        down: Path of the down projection in a layer; its input holds the neurons.
        gate: Path in a layer of the module whose output is the gate; None in an ungated MLP.
        fired: Whose sign says that a neuron fires.
    """

    layers: str
    down: str
    gate: str | None
    fired: Fired


_GATED = Architecture("model.layers", "mlp.down_proj", "mlp.gate_proj", "gate")
_FUSED = Architecture("model.layers", "mlp.down_proj", "mlp.gate_up_proj", "gate_half")


def _ungated(layers: str, down: str) -> Architecture:
    return Architecture(layers, down, None, "input")


_ARCHITECTURES: dict[str, Architecture] = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "qwen3_5_text", "gemma", "gemma2", "gemma3_text", "olmo2", "cohere")
        + ("granite", "smollm3", "internlm3", "seed_oss", "hunyuan_v1_dense", "ernie4_5", "stablelm"),
        _GATED,
    ),
    **dict.fromkeys(("phi3", "glm", "glm4"), _FUSED),
    "nemotron": _ungated("model.layers", "mlp.down_proj"),
    "phi": _ungated("model.layers", "mlp.fc2"),
    "starcoder2": _ungated("model.layers", "mlp.c_proj"),
    "gpt2": _ungated("transformer.h", "mlp.c_proj"),
    "gpt_bigcode": _ungated("transformer.h", "mlp.c_proj"),
    "gptj": _ungated("transformer.h", "mlp.fc_out"),
    "gpt_neo": _ungated("transformer.h", "mlp.c_proj"),
    "gpt_neox": _ungated("gpt_neox.layers", "mlp.dense_4h_to_h"),
    "opt": _ungated("model.decoder.layers", "fc2"),
    "bloom": _ungated("transformer.h", "mlp.dense_4h_to_h"),
    "falcon": _ungated("transformer.h", "mlp.dense_4h_to_h"),
    "mpt": _ungated("transformer.blocks", "ffn.down_proj"),
}

# In transformers 5 the experts of a mixture are slices of one 3-D parameter: there is no down projection to hook.
_MIXTURES: dict[str, str] = {
    **dict.fromkeys(("mixtral", "qwen3_moe", "olmoe", "phimoe", "granitemoe", "gpt_oss"), "its experts"),
    **dict.fromkeys(("qwen2_moe", "qwen3_next", "hunyuan_v1_moe", "llama4_text"), "its experts and shared expert"),
    **dict.fromkeys(
        ("deepseek_v2", "deepseek_v3", "glm4_moe", "ernie4_5_moe"),
        "its experts, shared experts and first dense layers",
    ),
}


def register_neurons(model_type: str, architecture: Architecture) -> None:
    """Tells where another architecture keeps its neurons.

    Args:
        model_type: ``config.model_type``, e.g. ``"internlm2"``.
        architecture: Its parts.
    """
    _ARCHITECTURES[model_type] = architecture


def known_architectures() -> dict[str, Architecture]:
    """``model_type`` -> parts, of every architecture that can be masked."""
    return dict(_ARCHITECTURES)


@dataclass(frozen=True, slots=True)
class LayerNeurons:
    """The neurons of one layer of a model.

    Attributes:
        layer: Index of the decoder layer.
        name: Path of the down projection in the model.
        down: The down projection; its input is ``[..., width]``.
        width: Number of neurons.
        gate: The module whose output is the gate, or None.
        fired: Whose sign says that a neuron fires.
    """

    layer: int
    name: str
    down: nn.Module
    width: int
    gate: nn.Module | None
    fired: Fired


def base_model(model: nn.Module) -> nn.Module:
    """The transformers model inside a compiled or PEFT-wrapped one; the model itself if it is neither."""
    inner = getattr(model, "_orig_mod", model)
    if hasattr(inner, "get_base_model"):
        inner = cast(Any, inner).get_base_model()
    assert isinstance(inner, nn.Module)
    return inner


def architecture_of(config: Any) -> Architecture:
    """The table's row for a model.

    Args:
        config: The model's configuration.

    Raises:
        CVoiceError: The architecture is not known, is a mixture of experts, or has an activation function whose sign
            cannot be read from the gate.
    """
    model_type = str(getattr(config, "model_type", None))
    if model_type in _MIXTURES:
        raise CVoiceError(
            f"{model_type} is a mixture of experts, and {_MIXTURES[model_type]} cannot be masked or located yet; "
            f"use a dense model ({', '.join(sorted(_ARCHITECTURES)[:6])}, ...)"
        )
    if model_type not in _ARCHITECTURES:
        raise CVoiceError(
            f"the architecture {model_type!r} is not known{suggestion(model_type, _ARCHITECTURES)} "
            "Name its parts with intervention.neurons.register_neurons(...)"
        )
    architecture = _ARCHITECTURES[model_type]
    if architecture.gate is not None:
        for key in _ACTIVATION_KEYS:
            function = getattr(config, key, None)
            if isinstance(function, str) and function not in _SIGN_KEEPING:
                raise CVoiceError(
                    f"{model_type} with the activation function {function!r}: whether a neuron fires cannot be read "
                    f"from its gate; known are {', '.join(sorted(_SIGN_KEEPING))}"
                )
    return architecture


def find_neurons(model: nn.Module) -> list[LayerNeurons]:
    """Finds the neurons of every layer of a model, and checks that they are where the table says.

    Args:
        model: A transformers decoder, plain or wrapped by PEFT or torch.compile.

    Returns:
        One entry a layer, in order; widths are taken from the modules, never from the configuration.

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
            down = layer.get_submodule(architecture.down)
            yield LayerNeurons(
                layer=index,
                name=f"{architecture.layers}.{index}.{architecture.down}",
                down=down,
                width=_input_width(down),
                gate=layer.get_submodule(architecture.gate) if architecture.gate else None,
                fired=architecture.fired,
            )
    except AttributeError as error:
        raise CVoiceError(
            f"this {config.model_type} model does not have the parts of a {config.model_type} ({error}); "
            "load it with transformers >= 5, or name its parts with intervention.neurons.register_neurons(...)"
        ) from None


def _input_width(down: nn.Module) -> int:
    """Length of the input's last axis. GPT-2's Conv1D is ``[in, out]`` and has no ``in_features``."""
    width = getattr(down, "in_features", None)
    if width is None:
        weight = down.weight
        assert isinstance(weight, torch.Tensor)
        width = weight.shape[0]
    return int(width)
