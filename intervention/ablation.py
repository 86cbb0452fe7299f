"""A mask applied to a model, proved to act, and taken off again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from cvoice_foundation.errors import CVoiceError
from intervention.bundled import model_path
from intervention.folding import fold, foldable
from intervention.mask import MaskedLayer, NeuronMask
from intervention.modes import Mode, NeuronOperator, Operator, check_mode, weight_factor
from intervention.neurons import LayerNeurons, base_model, find_neurons

_LOG = logging.getLogger(__name__)

MaskedNeurons = tuple[LayerNeurons, MaskedLayer]
"""Where a layer's neurons are in the model, and which of them are masked."""


@dataclass
class Ablation:
    """A mask in force on a model.

    Attributes:
        mask: The mask.
        mode: What is done to its neurons.
        strength: For scale and add.
        layers: The layers that it acts on.
        folded: Number of neurons that act through the weights, at no cost.
        hooked: Number of neurons that act through a hook.
    """

    mask: NeuronMask
    mode: Mode
    strength: float | None
    layers: tuple[MaskedNeurons, ...]
    folded: int = 0
    hooked: int = 0
    _undo: list[Callable[[], None]] = field(default_factory=list, repr=False)

    def remove(self) -> None:
        """Takes the mask off: the model is as before, to the bit. Other masks and hooks stay. May be called twice."""
        while self._undo:
            self._undo.pop()()


def apply_mask(model: nn.Module, mask: NeuronMask, mode: str = "zero", strength: float | None = None) -> Ablation:
    """Applies a mask to a model and proves that it acts; ``remove()`` on the result takes it off.

    Args:
        model: A transformers decoder; stays as it is but for the masked neurons.
        mask: Neurons of this model.
        mode: ``zero``, ``mean``, ``scale`` or ``add``; formulas in :mod:`intervention.modes`.
        strength: For scale and add.

    Returns:
        The ablation in force.

    Raises:
        CVoiceError: The mask does not fit the model, is empty, does not suit the mode, or cannot be shown to act.
            The model is then as before.
    """
    checked_mode, checked_strength = check_mode(mode, strength, mask)
    layers = tuple(match_layers(model, mask))
    ablation = Ablation(mask, checked_mode, checked_strength, layers)
    try:
        with torch.no_grad():
            changed = [_apply_to_layer(ablation, neurons, masked, model) for neurons, masked in layers]
            if not any(changed):
                raise CVoiceError(
                    f"mask {mask.value!r}: switching its neurons changes nothing in this model (their weights are zero "
                    "already); was the mask applied before, as in an exported checkpoint?"
                )
            _prove_reached(model, [neurons for neurons, _ in layers])
    except BaseException:
        ablation.remove()
        raise
    return ablation


@contextmanager
def ablate(model: nn.Module, mask: NeuronMask, mode: str = "zero", strength: float | None = None) -> Iterator[Ablation]:
    """:func:`apply_mask` for the length of a ``with`` block.

    Example:
        >>> with ablate(model, NeuronMask.load(path)) as ablation:
        ...     masked = model(input_ids).logits
    """
    ablation = apply_mask(model, mask, mode, strength)
    try:
        yield ablation
    finally:
        ablation.remove()


def match_layers(model: nn.Module, mask: NeuronMask) -> list[MaskedNeurons]:
    """Finds a mask's neurons in a model.

    Raises:
        CVoiceError: The mask is empty or made for another architecture, depth or width. Another name alone is a
            warning: checkpoints are copied and renamed.
    """
    config: Any = base_model(model).config
    if not mask.layers:
        raise CVoiceError(f"mask {mask.value!r} is empty; locate with a higher --top-rate, or use mask=none")
    neurons = find_neurons(model)
    name = getattr(config, "_name_or_path", "") or "this model"
    architecture = type(base_model(model)).__name__
    if mask.model.architecture not in (None, architecture):
        raise CVoiceError(
            f"mask {mask.value!r} was made for {mask.model.architecture}, and {name} is {architecture}; "
            "locate the neurons of this model with `cvoice locate`"
        )
    if mask.model.num_layers != len(neurons):
        raise CVoiceError(
            f"mask {mask.value!r} was made for a model of {mask.model.num_layers} layers, and {name} has {len(neurons)}"
        )
    for layer in neurons:
        if mask.model.num_neurons not in (None, layer.width):
            raise CVoiceError(
                f"mask {mask.value!r} was made for layers of {mask.model.num_neurons} neurons, and layer {layer.layer} "
                f"of {name} has {layer.width}"
            )
    for masked in mask.layers:
        if masked.neurons[-1] >= neurons[masked.layer].width:
            raise CVoiceError(
                f"mask {mask.value!r}, layer {masked.layer}: neuron {masked.neurons[-1]}, and {name} has "
                f"{neurons[masked.layer].width} there"
            )
    if mask.model.name is not None and name not in (mask.model.name, model_path(mask.model.name), "this model"):
        _LOG.warning("mask %r was located on %s and acts on %s", mask.value, mask.model.name, name)
    return [(neurons[masked.layer], masked) for masked in mask.layers]


def _apply_to_layer(ablation: Ablation, neurons: LayerNeurons, masked: MaskedLayer, model: nn.Module) -> bool:
    """Applies the mask to one layer; returns whether its output changed.

    The proof (law 1): on random activations x the masked module gives, bit for bit, what the unmasked one gives on
    formula(x), whatever stands at the masked coordinates where the mode overwrites them.
    """
    operator = NeuronOperator(masked, ablation.mode, ablation.strength)
    probe = _probe(neurons, model)
    plain, expected = _call(neurons, probe), _call(neurons, operator(probe))

    factor = weight_factor(ablation.mode, ablation.strength)
    if factor is not None and foldable(neurons.down) and _stays_exact(neurons, masked, factor):
        ablation._undo.append(fold(neurons.down, masked.neurons, factor))
        ablation.folded += len(masked.neurons)
    else:
        handle = neurons.down.register_forward_pre_hook(_masking_hook(operator))
        ablation._undo.append(handle.remove)
        ablation.hooked += len(masked.neurons)

    probes = [probe]
    if ablation.mode in ("zero", "mean"):
        shift = torch.zeros_like(probe).index_fill(-1, torch.tensor(masked.neurons, device=probe.device), 1.0)
        probes.append(probe + shift)
    if not all(torch.equal(_call(neurons, x), expected) for x in probes):
        raise CVoiceError(
            f"layer {neurons.layer}: the mask did not act on {neurons.name} as mode={ablation.mode} says "
            f"({type(neurons.down).__name__}); please report this model"
        )
    return not torch.equal(plain, expected)


def _masking_hook(operator: Operator) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (operator(args[0]), *args[1:])

    return hook


def _stays_exact(neurons: LayerNeurons, masked: MaskedLayer, factor: float) -> bool:
    """Whether a factor changes the columns without rounding: a power of two can still over- or underflow."""
    if factor == 0:
        return True
    weight = neurons.down.weight
    assert isinstance(weight, torch.Tensor)
    axis = 1 if hasattr(neurons.down, "in_features") else 0
    columns = weight.index_select(axis, torch.tensor(masked.neurons, device=weight.device))
    return bool(torch.equal(columns * factor / factor, columns))


def _probe(neurons: LayerNeurons, model: nn.Module) -> torch.Tensor:
    """Random activations ``[1, 2, neurons]`` in the module's own dtype and on its device."""
    weight = getattr(neurons.down, "weight", None)
    floating = isinstance(weight, torch.Tensor) and weight.is_floating_point()
    dtype = weight.dtype if floating and isinstance(weight, torch.Tensor) else getattr(model, "dtype", torch.float32)
    device = weight.device if isinstance(weight, torch.Tensor) and not weight.is_meta else torch.device("cpu")
    generator = torch.Generator().manual_seed(neurons.layer)
    return torch.randn(1, 2, neurons.width, generator=generator).to(device, dtype)


def _call(neurons: LayerNeurons, activations: torch.Tensor) -> torch.Tensor:
    output = neurons.down(activations)
    assert isinstance(output, torch.Tensor)
    if not bool(torch.isfinite(output).all()):
        raise CVoiceError(f"layer {neurons.layer}: {neurons.name} gives values that are not finite; check the weights")
    return output


def _prove_reached(model: nn.Module, layers: Sequence[LayerNeurons]) -> None:
    """Runs the model on two tokens: every masked module must be called, or its mask would be a silent no-op."""
    reached: set[str] = set()
    handles = [
        layer.down.register_forward_pre_hook(lambda _module, _args, name=layer.name: reached.add(name))
        for layer in layers
    ]
    try:
        model(torch.zeros(1, 2, dtype=torch.long, device=getattr(model, "device", None)))
    finally:
        for handle in handles:
            handle.remove()
    for layer in layers:
        if layer.name not in reached:
            raise CVoiceError(
                f"layer {layer.layer}: {layer.name} is not called in this model's forward pass, so masking it would do "
                "nothing; check options that change how layers run (pretraining_tp, slow_but_exact)"
            )
