"""What happens to a masked neuron: four formulas over the activation a_j of neuron j, as data.

=====  ==================================  =========================================================
mode   formula                             use
=====  ==================================  =========================================================
zero   a_j ← 0                             switch off (LAPE, arXiv 2402.16438, section 4.1)
mean   a_j ← m_j                           switch off without leaving the distribution; m_j is the
                                           mean over the corpus that the mask was located on
scale  a_j ← s · a_j                       weaken or amplify; s is ``strength``
add    a_j ← a_j + s · m_j                 steer
=====  ==================================  =========================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch

from cvoice_foundation.errors import CVoiceError, suggestion
from intervention.mask import MaskedLayer, NeuronMask

Mode = Literal["zero", "mean", "scale", "add"]
MODES: tuple[Mode, ...] = get_args(Mode)

Operator = Callable[[torch.Tensor], torch.Tensor]
"""Activations ``[..., neurons]`` to activations of the same shape; a new tensor, the argument is left as it is."""


def check_mode(mode: object, strength: object, mask: NeuronMask) -> tuple[Mode, float | None]:
    """Checks a mode and its strength against a mask.

    Args:
        mode: Of the user's.
        strength: Of the user's: a number for scale and add (1 where left out for add), None for zero and mean.
        mask: The mask that they are to act with.

    Returns:
        The mode and its strength.

    Raises:
        CVoiceError: The mode is not known, the strength is missing, superfluous or not a finite number, or the mask
            has no means where the mode needs them.
    """
    if mode not in MODES:
        raise CVoiceError(f"mode={mode!r} is not known{suggestion(str(mode), MODES)}")
    if mode in ("zero", "mean"):
        if strength is not None:
            raise CVoiceError(f"mode={mode} takes no strength; leave out strength={strength}, or use mode=scale or add")
    elif strength is None and mode == "scale":
        raise CVoiceError("mode=scale needs a strength, e.g. mode=scale,strength=0.5")
    else:
        strength = 1.0 if strength is None else strength
        if isinstance(strength, bool) or not isinstance(strength, int | float) or not math.isfinite(strength):
            raise CVoiceError(f"strength={strength!r} is not a number; write e.g. strength=0.5")
        if strength == (1 if mode == "scale" else 0):
            raise CVoiceError(f"mode={mode},strength={strength} changes nothing; for the baseline use mask=none")
    if mode in ("mean", "add"):
        without = next((layer.layer for layer in mask.layers if layer.means is None), None)
        if without is not None:
            raise CVoiceError(
                f"mode={mode} needs the neurons' mean activations, and the mask {mask.value!r} has none "
                f"(layer {without}); locate it again with `cvoice locate`, or use mode=zero"
            )
    return mode, None if strength is None else float(strength)


def weight_factor(mode: Mode, strength: float | None) -> float | None:
    """The factor that does the same to the down projection's columns, or None where none does it bit-exactly.

    Zero is exact, and so is a power of two, which changes the exponent alone.
    """
    if mode == "zero":
        return 0.0
    if mode == "scale" and strength is not None and (strength == 0 or abs(math.frexp(strength)[0]) == 0.5):
        return strength
    return None


class NeuronOperator:
    """A mode acting on the neurons of one layer.

    Takes its device and dtype from the activation, so that it follows a model that lies on several devices.

    Args:
        layer: Neurons, and their means where the mode needs them.
        mode: One of the four.
        strength: For scale and add.
    """

    def __init__(self, layer: MaskedLayer, mode: Mode, strength: float | None) -> None:
        self._mode = mode
        self._strength = 1.0 if strength is None else strength
        self._neurons = torch.tensor(layer.neurons, dtype=torch.long)
        self._means = None if layer.means is None else torch.tensor(layer.means, dtype=torch.float64)
        self._on_device: dict[tuple[torch.device, torch.dtype], tuple[torch.Tensor, torch.Tensor | None]] = {}

    def __call__(self, activations: torch.Tensor) -> torch.Tensor:
        """Applies the formula to the last axis.

        Args:
            activations: ``[..., neurons]``; some architectures flatten batch and sequence into one axis.
        """
        neurons, means = self._at(activations)
        if self._mode == "zero":
            return activations.index_fill(-1, neurons, 0.0)
        if self._mode == "scale":
            new = activations.index_select(-1, neurons) * self._strength
        else:
            assert means is not None
            new = means.expand(*activations.shape[:-1], -1)
            if self._mode == "add":
                new = activations.index_select(-1, neurons) + new * self._strength
        return activations.index_copy(-1, neurons, new)

    def _at(self, activations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        key = (activations.device, activations.dtype)
        if key not in self._on_device:
            means = None if self._means is None else self._means.to(activations.device, activations.dtype)
            self._on_device[key] = (self._neurons.to(activations.device), means)
        return self._on_device[key]
