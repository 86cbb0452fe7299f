"""A mask applied to a model, proved to act, and taken off again."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from cvoice_foundation.errors import CVoiceError
from intervention.bundled import model_path
from intervention.experts import held
from intervention.folding import fold, foldable, folded_neurons, stays_exact
from intervention.mask import MaskedLayer, NeuronMask
from intervention.modes import Mode, NeuronOperator, check_mode, weight_factor
from intervention.neurons import LayerNeurons, base_model, expert_label, find_neurons
from intervention.sites import Site, site_of

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
        errors: list[Exception] = []
        while self._undo:
            # Whatever one undo meets, the others are still due.
            try:
                self._undo.pop()()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]


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
            # Registered first, so that it runs last.
            ablation._undo.append(functools.partial(_forget_graphs, model))
            with held(model, [neurons for neurons, _ in layers]):
                changed = [_apply_to_layer(ablation, site_of(neurons, model), masked) for neurons, masked in layers]
            if not any(changed):
                raise CVoiceError(
                    f"mask {mask.value!r}: switching its neurons changes nothing in this model (their weights are zero "
                    "already); was the mask applied before, as in an exported checkpoint?"
                )
            _prove_reached(model, [neurons for neurons, _ in layers])
            _forget_graphs(model)
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
    num_layers = neurons[-1].layer + 1
    if mask.model.num_layers != num_layers:
        raise CVoiceError(
            f"mask {mask.value!r} was made for a model of {mask.model.num_layers} layers, and {name} has {num_layers}"
        )
    widest = max(mlp.width for mlp in neurons)
    if mask.model.num_neurons not in (None, widest):
        raise CVoiceError(
            f"mask {mask.value!r} was made for layers of {mask.model.num_neurons} neurons, and the layers of {name} "
            f"have {widest}"
        )
    places = {(mlp.layer, mlp.expert): mlp for mlp in neurons}
    for masked in mask.layers:
        mlp = places.get((masked.layer, masked.expert))
        if mlp is None:
            there = [expert for layer, expert in places if layer == masked.layer]
            has = f"experts 0-{len(there) - 1 - ('shared' in there)}" if 0 in there else "one dense MLP"
            raise CVoiceError(
                f"mask {mask.value!r}, layer {masked.layer}: neurons of {expert_label(masked.expert)}, and {name} has "
                f"{has}{' and a shared expert' if 'shared' in there else ''} there"
            )
        if masked.neurons[-1] >= mlp.width:
            raise CVoiceError(
                f"mask {mask.value!r}, layer {masked.layer}: neuron {masked.neurons[-1]}, and {name} has "
                f"{mlp.width} there"
            )
    if mask.model.name is not None and name not in (mask.model.name, model_path(mask.model.name), "this model"):
        _LOG.warning("mask %r was located on %s and acts on %s", mask.value, mask.model.name, name)
    return [(places[masked.layer, masked.expert], masked) for masked in mask.layers]


def _apply_to_layer(ablation: Ablation, site: Site, masked: MaskedLayer) -> bool:
    """Applies the mask to one MLP; returns whether its output changed.

    The proof (law 1): the module is called on random activations x with formula(x) put in their place, and then with
    the mask in force and x as it is. Both must agree bit for bit; where the mode overwrites the masked coordinates,
    whatever else stands there too; and the formula must have been asked.
    """
    neurons = site.neurons
    operator = NeuronOperator(masked, ablation.mode, ablation.strength)
    asked: list[torch.Size] = []

    def formula(activations: torch.Tensor) -> torch.Tensor:
        asked.append(activations.shape)
        return operator(activations)

    factor = weight_factor(ablation.mode, ablation.strength)
    folds = factor is not None and foldable(neurons) and stays_exact(neurons, masked.neurons, factor)
    if not folds:
        site.check_hookable()
    if ablation.mode in ("mean", "add"):
        _check_order(neurons, masked)
    probe = site.probe()
    plain, expected = site.call(probe), site.expected(formula)

    if folds:
        assert factor is not None
        ablation._undo.append(fold(neurons, masked.neurons, factor))
        ablation.folded += len(masked.neurons)
    else:
        ablation._undo.append(site.hook(operator))
        ablation.hooked += len(masked.neurons)

    probes = [probe]
    if ablation.mode in ("zero", "mean"):
        shift = torch.zeros_like(probe).index_fill(-1, torch.tensor(masked.neurons, device=probe.device), 1.0)
        probes.append(site.shifted(probe, shift))
    if not asked or not all(torch.equal(site.call(x), expected) for x in probes):
        raise CVoiceError(
            f"layer {neurons.layer}, {expert_label(neurons.expert)}: the mask did not act on {neurons.name} as "
            f"mode={ablation.mode} says ({type(neurons.module).__name__}); please report this model"
        )
    return not torch.equal(plain, expected)


def _check_order(neurons: LayerNeurons, masked: MaskedLayer) -> None:
    """What is folded into the weights acts last, so a mean cannot be put behind it."""
    overlap = folded_neurons(neurons).intersection(masked.neurons)
    if overlap:
        raise CVoiceError(
            f"layer {neurons.layer}, neuron {min(overlap)}: another mask in force already zeroes or scales it in the "
            "weights, and mode=mean or add would act before that; take the other mask off, or apply this one first"
        )


def _forget_graphs(model: nn.Module) -> None:
    """Has a compiled model compiled anew: its graphs do not look for hooks that came or went (tried, torch 2.13)."""
    if any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    ):
        torch.compiler.reset()


def _prove_reached(model: nn.Module, layers: Sequence[LayerNeurons]) -> None:
    """Runs the model on two tokens: every masked module must be called, or its mask would be a silent no-op."""
    reached: set[str] = set()
    modules = {layer.name: layer.module for layer in layers}
    handles = [
        module.register_forward_pre_hook(lambda _module, _args, name=name: reached.add(name))
        for name, module in modules.items()
    ]
    _forget_graphs(model)
    device = torch.device(getattr(model, "device", "cpu"))
    try:
        # An offloaded model calls itself "meta", and takes its input from anywhere.
        model(torch.zeros(1, 2, dtype=torch.long, device="cpu" if device.type == "meta" else device))
    finally:
        for handle in handles:
            handle.remove()
    for layer in layers:
        if layer.name not in reached:
            raise CVoiceError(
                f"layer {layer.layer}: {layer.name} is not called in this model's forward pass, so masking it would do "
                "nothing; check options that change how layers run (pretraining_tp, slow_but_exact)"
            )
