"""The lines of a mask file: the model that a mask belongs to, and the neurons of one MLP; reading and checking them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from cvoice_foundation.errors import CVoiceError
from intervention.architectures import SHARED, Expert

_CLASS_NAME = re.compile(r"[A-Za-z0-9_+-]+")


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """The model that a mask belongs to; what is None is not known and not checked.

    Attributes:
        name: As given to ``from_pretrained``.
        revision: Commit or branch.
        architecture: Class name, e.g. ``Qwen2ForCausalLM``.
        num_layers: Number of decoder layers.
        num_neurons: Neurons a layer.
    """

    name: str | None
    revision: str | None
    architecture: str | None
    num_layers: int
    num_neurons: int | None

    def to_json(self) -> dict[str, Any]:
        """The header's ``model`` object."""
        return {
            "name": self.name,
            "revision": self.revision,
            "architecture": self.architecture,
            "num_layers": self.num_layers,
            "num_neurons": self.num_neurons,
        }


@dataclass(frozen=True, slots=True)
class MaskedLayer:
    """Neurons of one MLP of a layer.

    Attributes:
        layer: Index of the decoder layer.
        neurons: Their indices, ascending.
        means: Their mean activations over the corpus, in the same order; None if not known.
        expert: Which MLP of a mixture's layer: an expert's index, or ``"shared"``; None in a dense layer.
    """

    layer: int
    neurons: tuple[int, ...]
    means: tuple[float, ...] | None = None
    expert: Expert = None

    def to_json(self) -> dict[str, Any]:
        """The layer's line."""
        line: dict[str, Any] = {"layer": self.layer}
        if self.expert is not None:
            line["expert"] = self.expert
        line["neurons"] = list(self.neurons)
        return line if self.means is None else line | {"means": list(self.means)}

    @property
    def place(self) -> tuple[int, int]:
        """Where its line stands: layers ascend, and in a layer the dense MLP, experts ascending, the shared expert."""
        order = -1 if self.expert is None else self.expert if isinstance(self.expert, int) else 1 << 31
        return self.layer, order


def check_value(value: object, where: str) -> None:
    """Refuses a class name of other characters than letters, digits, ``_``, ``-`` and ``+``."""
    if not isinstance(value, str) or not _CLASS_NAME.fullmatch(value):
        raise CVoiceError(f'{where}: "value" is {value!r}, and should be a name of letters, digits, "_" and "-"')


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def read_model(model: object, where: str) -> ModelIdentity:
    """Reads the header's ``model`` object."""
    if not isinstance(model, dict):
        raise CVoiceError(f'{where}: the header\'s "model" should be an object with name, num_layers, ...')
    for key in ("name", "revision", "architecture"):
        if not isinstance(model.get(key), str | None):
            raise CVoiceError(f'{where}: model "{key}" is {model[key]!r}, and should be text or null')
    if not _is_count(model.get("num_layers")):
        raise CVoiceError(f'{where}: model "num_layers" is {model.get("num_layers")!r}, and should be a number')
    if model.get("num_neurons") is not None and not _is_count(model["num_neurons"]):
        raise CVoiceError(f'{where}: model "num_neurons" is {model["num_neurons"]!r}, and should be a number or null')
    return ModelIdentity(
        name=model.get("name"),
        revision=model.get("revision"),
        architecture=model.get("architecture"),
        num_layers=model["num_layers"],
        num_neurons=model.get("num_neurons"),
    )


def read_layer(line: dict[str, Any], where: str) -> MaskedLayer:
    """Reads one line after the header."""
    expert = line.get("expert")
    if not (expert is None or expert == SHARED or _is_count(expert)):
        raise CVoiceError(f'{where}: "expert" is {expert!r}, and should be a number or "{SHARED}"')
    neurons = line.get("neurons")
    if not _is_count(line.get("layer")) or not isinstance(neurons, list):
        raise CVoiceError(f'{where}: a layer\'s line should be {{"layer": 3, "neurons": [5, 77]}}')
    if not all(isinstance(neuron, int) and not isinstance(neuron, bool) for neuron in neurons):
        raise CVoiceError(f"{where}: neurons should be whole numbers")
    means = line.get("means")
    if means is not None and not (
        isinstance(means, list) and all(isinstance(m, int | float) and not isinstance(m, bool) for m in means)
    ):
        raise CVoiceError(f'{where}: "means" should be a list of numbers')
    try:
        known = None if means is None else tuple(float(m) for m in means)
    except OverflowError:
        raise CVoiceError(f'{where}: a number in "means" is too large') from None
    return MaskedLayer(line["layer"], tuple(neurons), known, expert)


def check_layer(layer: MaskedLayer, model: ModelIdentity, before: MaskedLayer | None, where: str) -> None:
    """Refuses neurons that cannot be those of the model, or a line out of order."""
    if before is not None and layer.place <= before.place:
        raise CVoiceError(
            f"{where}: {_label(layer)} follows {_label(before)}; layers ascend, one line each, and in a layer its "
            "experts ascend, the shared one last"
        )
    if not (layer.expert is None or layer.expert == SHARED or _is_count(layer.expert)):
        raise CVoiceError(f'{where}: expert {layer.expert!r} should be a number from 0, or "{SHARED}"')
    if not 0 <= layer.layer < model.num_layers:
        raise CVoiceError(
            f"{where}: layer {layer.layer}, and the model has {model.num_layers} (0-{model.num_layers - 1})"
        )
    if not layer.neurons:
        raise CVoiceError(f"{where}: no neurons; a layer without neurons has no line")
    for left, right in zip(layer.neurons, layer.neurons[1:], strict=False):
        if right <= left:
            trouble = "stands twice" if right == left else f"follows {left}"
            raise CVoiceError(f"{where}: neuron {right} {trouble}; neurons ascend, each once")
    if layer.neurons[0] < 0:
        raise CVoiceError(f"{where}: neuron {layer.neurons[0]} is negative; neurons count from 0")
    if model.num_neurons is not None and layer.neurons[-1] >= model.num_neurons:
        raise CVoiceError(
            f"{where}: neuron {layer.neurons[-1]}, and a layer has {model.num_neurons} (0-{model.num_neurons - 1})"
        )
    if layer.means is not None and (
        len(layer.means) != len(layer.neurons) or not all(math.isfinite(mean) for mean in layer.means)
    ):
        raise CVoiceError(f"{where}: {len(layer.means)} means for {len(layer.neurons)} neurons; one finite mean each")


def _label(layer: MaskedLayer) -> str:
    return f"layer {layer.layer}" if layer.expert is None else f"layer {layer.layer}, expert {layer.expert}"
