"""Where each architecture keeps its neurons, in memory and on disk: a table of data.

A neuron is one coordinate of the input of an MLP's down projection, in gated and ungated MLPs alike. It *fires* on a
token when its activation function's output is positive (LAPE, arXiv 2402.16438, section 2.2). A mixture of experts has
up to three kinds of MLP: those of its first dense layers, a shared expert that every token passes, and the experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from cvoice_foundation.errors import CVoiceError, suggestion

Fired = Literal["gate", "gate_half", "gate_even", "input"]
"""Whose sign says that a neuron fires: the gate projection's output; its first half, or its even places, where gate
and up projection are one weight; the down projection's input, where there is no gate."""

Expert = int | Literal["shared"] | None
"""Which MLP of a layer: an expert's index, the shared expert, or None in a dense layer."""

SHARED: Literal["shared"] = "shared"

# act(x) > 0 exactly where x > 0, so the sign can be read before the activation function.
_SIGN_KEEPING = frozenset(
    (
        *("silu", "swish", "relu", "relu2", "gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh"),
        *("gelu_accurate", "quick_gelu"),
    )
)
_ACTIVATION_KEYS = ("hidden_activation", "hidden_act", "activation_function", "activation")


@dataclass(frozen=True, slots=True)
class Projection:
    """A down projection that is a module of its own.

    Attributes:
        down: Path of the down projection in a layer; its input holds the neurons.
        gate: Path in a layer of the module whose output is the gate; None in an ungated MLP.
        fired: Whose sign says that a neuron fires.
    """

    down: str
    gate: str | None
    fired: Fired


@dataclass(frozen=True, slots=True)
class Experts:
    """Experts that share one 3-D parameter for their down projections, as in transformers 5.

    Attributes:
        module: Path in a layer of the module that holds the parameters.
        axis: Which axis of one expert's 2-D slice holds the neurons: 1 for ``[E, out, in]``, 0 for ``[E, in, out]``.
        fired: ``gate_half`` or ``gate_even``: where the gate stands in ``gate_up_proj``'s output.
        on_disk: Name in a layer of an expert's down projection in a checkpoint, with ``{expert}`` where each expert
            has a tensor of its own, without where they share one as in memory.
        axis_on_disk: As ``axis``, of an expert's slice or tensor on disk.
        dispatched: Whether the module runs through transformers' experts interface, where activations can be reached.
            Elsewhere only what can be folded into the weights acts.
    """

    module: str
    axis: int
    fired: Fired
    on_disk: str
    axis_on_disk: int
    dispatched: bool = True


@dataclass(frozen=True, slots=True)
class Architecture:
    """Names of the parts of one architecture's MLPs.

    Attributes:
        layers: Path of the list of decoder layers.
        down: Path of a dense layer's down projection in the layer; None where every layer is a mixture.
        gate: Path in a dense layer of the module whose output is the gate; None in an ungated MLP.
        fired: Whose sign says that a dense layer's neuron fires.
        shared: The shared expert, if there is one.
        experts: The experts, if there are any.
        layers_on_disk: Prefixes that the decoder layers have in checkpoints; the first is the one that
            ``save_pretrained`` writes. Empty where they are called as in memory.
    """

    layers: str
    down: str | None
    gate: str | None
    fired: Fired
    shared: Projection | None = None
    experts: Experts | None = None
    layers_on_disk: tuple[str, ...] = ()

    def names_on_disk(self, layer: int, expert: Expert = None) -> tuple[str, ...]:
        """Names that the weight of a down projection may have in a checkpoint, the likeliest first.

        Args:
            layer: Index of the decoder layer.
            expert: Which MLP of the layer. Experts that share a 3-D tensor on disk have one name.

        Raises:
            CVoiceError: The architecture has no such MLP.
        """
        if isinstance(expert, int):
            inner = self.experts.on_disk.format(expert=expert) if self.experts else None
        elif expert is None:
            inner = f"{self.down}.weight" if self.down else None
        else:
            inner = f"{self.shared.down}.weight" if self.shared else None
        if not inner:
            raise CVoiceError(f"this architecture has no MLP of the kind expert={expert!r}")
        return tuple(f"{prefix}.{layer}.{inner}" for prefix in self.layers_on_disk or (self.layers,))


def _gated(layers: str = "model.layers", mlp: str = "mlp", **others: Any) -> Architecture:
    return Architecture(layers, f"{mlp}.down_proj", f"{mlp}.gate_proj", "gate", **others)


def _ungated(layers: str, down: str, **others: Any) -> Architecture:
    return Architecture(layers, down, None, "input", **others)


def _mixture(shared: str | None, experts: Experts, *, mlp: str | None = "mlp", **others: Any) -> Architecture:
    return Architecture(
        "model.layers",
        mlp and f"{mlp}.down_proj",
        mlp and f"{mlp}.gate_proj",
        "gate",
        shared=Projection(f"{shared}.down_proj", f"{shared}.gate_proj", "gate") if shared else None,
        experts=experts,
        **others,
    )


_FUSED = Architecture("model.layers", "mlp.down_proj", "mlp.gate_up_proj", "gate_half")
_MLP_EXPERTS = Experts("mlp.experts", 1, "gate_half", "mlp.experts.{expert}.down_proj.weight", 1)
_W2_EXPERTS = Experts("mlp.experts", 1, "gate_half", "block_sparse_moe.experts.{expert}.w2.weight", 1)
_GPT2_ON_DISK = ("transformer.h", "h")

_ARCHITECTURES: dict[str, Architecture] = {
    **dict.fromkeys(
        (
            *("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo2", "cohere"),
            *("granite", "smollm3", "internlm3", "seed_oss", "hunyuan_v1_dense", "ernie4_5", "stablelm"),
        ),
        _gated(),
    ),
    # Published with its vision tower; AutoModelForCausalLM loads the language tower alone.
    "qwen3_5_text": _gated(layers_on_disk=("model.layers", "model.language_model.layers")),
    # Loaded with its vision tower, which is left alone.
    "gemma3": _gated("model.language_model.layers", layers_on_disk=("language_model.model.layers",)),
    **dict.fromkeys(("phi3", "glm", "glm4"), _FUSED),
    "nemotron": _ungated("model.layers", "mlp.down_proj"),
    "phi": _ungated("model.layers", "mlp.fc2"),
    "starcoder2": _ungated("model.layers", "mlp.c_proj"),
    "gpt2": _ungated("transformer.h", "mlp.c_proj", layers_on_disk=_GPT2_ON_DISK),
    "gpt_bigcode": _ungated("transformer.h", "mlp.c_proj"),
    "gptj": _ungated("transformer.h", "mlp.fc_out"),
    "gpt_neo": _ungated("transformer.h", "mlp.c_proj"),
    "gpt_neox": _ungated("gpt_neox.layers", "mlp.dense_4h_to_h"),
    "opt": _ungated("model.decoder.layers", "fc2", layers_on_disk=("model.decoder.layers", "decoder.layers")),
    "bloom": _ungated("transformer.h", "mlp.dense_4h_to_h", layers_on_disk=_GPT2_ON_DISK),
    "falcon": _ungated("transformer.h", "mlp.dense_4h_to_h"),
    "mpt": _ungated("transformer.blocks", "ffn.down_proj"),
    **dict.fromkeys(("mixtral", "phimoe"), _mixture(None, _W2_EXPERTS, mlp=None)),
    "olmoe": _mixture(None, _MLP_EXPERTS, mlp=None),
    "qwen3_moe": _mixture(None, _MLP_EXPERTS),
    **dict.fromkeys(("qwen2_moe", "qwen3_next"), _mixture("mlp.shared_expert", _MLP_EXPERTS)),
    **dict.fromkeys(
        ("deepseek_v2", "deepseek_v3", "glm4_moe", "ernie4_5_moe"), _mixture("mlp.shared_experts", _MLP_EXPERTS)
    ),
    "hunyuan_v1_moe": _mixture("mlp.shared_mlp", _MLP_EXPERTS, mlp=None),
    "granitemoe": _mixture(
        None,
        Experts("block_sparse_moe.experts", 1, "gate_half", "block_sparse_moe.output_linear.weight", 1),
        mlp=None,
    ),
    "gpt_oss": _mixture(None, Experts("mlp.experts", 0, "gate_even", "mlp.experts.down_proj", 0), mlp=None),
    "llama4_text": _mixture(
        "feed_forward.shared_expert",
        Experts("feed_forward.experts", 0, "gate_half", "feed_forward.experts.down_proj", 0, dispatched=False),
        mlp="feed_forward",
        layers_on_disk=("model.layers", "language_model.model.layers"),
    ),
}


def register_neurons(model_type: str, architecture: Architecture) -> None:
    """Tells where another architecture keeps its neurons; masks and locate then work on it as on any other.

    That the names are right is proved each time a mask is applied: a module that does not act, or is not called, is
    an error.

    Args:
        model_type: ``config.model_type``.
        architecture: Its parts.

    Example:
        InternLM2 (remote code) keeps a gated MLP under its own names, ``w2(act(w1 x) * w3 x)``:

        >>> from intervention.neurons import Architecture, register_neurons
        >>> register_neurons("internlm2", Architecture("model.layers", "feed_forward.w2", "feed_forward.w1", "gate"))
    """
    _ARCHITECTURES[model_type] = architecture


def known_architectures() -> dict[str, Architecture]:
    """``model_type`` -> parts, of every architecture that can be masked."""
    return dict(_ARCHITECTURES)


def architecture_of(config: Any) -> Architecture:
    """The table's row for a model.

    Args:
        config: The model's configuration.

    Raises:
        CVoiceError: The architecture is not known, or has an activation function whose sign cannot be read from the
            gate.
    """
    model_type = str(getattr(config, "model_type", None))
    if model_type not in _ARCHITECTURES:
        raise CVoiceError(
            f"the architecture {model_type!r} is not known{suggestion(model_type, _ARCHITECTURES)}. "
            "Name its parts with intervention.neurons.register_neurons(...); docs/architectures.md says how"
        )
    architecture = _ARCHITECTURES[model_type]
    if architecture.fired != "input":
        text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
        for key in _ACTIVATION_KEYS:
            function = getattr(text_config, key, None)
            if isinstance(function, str) and function not in _SIGN_KEEPING:
                raise CVoiceError(
                    f"{model_type} with the activation function {function!r}: whether a neuron fires cannot be read "
                    f"from its gate; known are {', '.join(sorted(_SIGN_KEEPING))}"
                )
    return architecture
