"""NeuronMask: a set of neurons of a model, and its file format.

A mask file is JSON Lines made to be read, compared and reviewed: a header, then one line a layer that has neurons,
layers ascending, indices ascending and unique.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cvoice_foundation.errors import CVoiceError
from cvoice_foundation.files import dump_json_lines, read_json_lines, write_whole

FORMAT = "cvoice-neuron-mask"
VERSION = 1
_CLASS_NAME = re.compile(r"[A-Za-z0-9_+-]+")
_KNOWN_KEYS = frozenset({"format", "version", "value", "language", "model", "method", "corpus", "created"})


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
    """Neurons of one layer.

    Attributes:
        layer: Index of the decoder layer.
        neurons: Their indices, ascending.
        means: Their mean activations over the corpus, in the same order; None if not known.
    """

    layer: int
    neurons: tuple[int, ...]
    means: tuple[float, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """The layer's line."""
        line: dict[str, Any] = {"layer": self.layer, "neurons": list(self.neurons)}
        return line if self.means is None else line | {"means": list(self.means)}


@dataclass(frozen=True)
class NeuronMask:
    """A set of neurons of a model, with where it comes from.

    Attributes:
        value: The class that the neurons carry: a value's key, or any other name of letters, digits, ``_`` and ``-``.
        model: The model that they belong to.
        layers: Layers that have neurons, ascending.
        language: ``zh``, ``en``, ``both`` or None.
        method: How they were found (``name`` and settings).
        corpus: What they were found on (``sha256``, ``tokens``).
        created: Versions of what made the mask.
        extra: Header keys that this version does not know; kept.

    Raises:
        CVoiceError: On construction, where the parts contradict each other.
    """

    value: str
    model: ModelIdentity
    layers: tuple[MaskedLayer, ...]
    language: str | None = None
    method: Mapping[str, Any] = field(default_factory=dict)
    corpus: Mapping[str, Any] | None = None
    created: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_value(self.value, "mask")
        for before, layer in zip((None, *self.layers), self.layers, strict=False):
            _check_layer(layer, self.model, before, f"mask {self.value!r}, layer {layer.layer}")

    @property
    def num_masked(self) -> int:
        """How many neurons the mask holds, all layers together."""
        return sum(len(layer.neurons) for layer in self.layers)

    @cached_property
    def sha256(self) -> str:
        """Identity: SHA-256 of the canonical content, whatever the file's spacing, key order or line ends."""
        lines = [self.header(), *(layer.to_json() for layer in self.layers)]
        canonical = json.dumps(lines, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()

    def header(self) -> dict[str, Any]:
        """The file's first line."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "value": self.value,
            "language": self.language,
            "model": self.model.to_json(),
            "method": dict(self.method),
            "corpus": None if self.corpus is None else dict(self.corpus),
            "created": dict(self.created),
            **self.extra,
        }

    def save(self, path: Path) -> None:
        """Writes the mask file, whole or not at all.

        Raises:
            CVoiceError: The folder cannot be written to.
        """
        write_whole(path, dump_json_lines([self.header(), *(layer.to_json() for layer in self.layers)]))

    @classmethod
    def load(cls, path: Path) -> NeuronMask:
        """Reads a mask file.

        Raises:
            CVoiceError: It is not a mask file of this version, or a line is wrong; the message names the line.
        """
        lines = read_json_lines(path, "mask file")
        number, header = next(lines, (0, {}))
        if header.get("format") != FORMAT:
            raise CVoiceError(f'{path}: not a mask file; its first line should have "format": "{FORMAT}"')
        if header.get("version") != VERSION:
            raise CVoiceError(
                f"{path}: mask file of version {header.get('version')!r}, and this program reads version {VERSION}; "
                "update it with: pip install -U cvoice"
            )
        where = f"{path}, line {number}"
        model = _read_model(header.get("model"), where)
        _check_value(header.get("value"), where)
        for key in ("method", "corpus", "created"):
            if not isinstance(header.get(key) or {}, dict):
                raise CVoiceError(f'{where}: "{key}" is not an object')
        layers: list[MaskedLayer] = []
        for number, line in lines:
            where = f"{path}, line {number}"
            layer = _read_layer(line, where)
            _check_layer(layer, model, layers[-1] if layers else None, where)
            layers.append(layer)
        language = header.get("language")
        return cls(
            value=header["value"],
            model=model,
            layers=tuple(layers),
            language=language if isinstance(language, str) else None,
            method=header.get("method") or {},
            corpus=header.get("corpus"),
            created=header.get("created") or {},
            extra={key: value for key, value in header.items() if key not in _KNOWN_KEYS},
        )


def union(masks: Sequence[NeuronMask]) -> NeuronMask:
    """The neurons of several masks of one model, acting together.

    Args:
        masks: At least one.

    Returns:
        The mask itself if there is one; else a mask whose value is ``a+b``. Means are kept where every part has them.

    Raises:
        CVoiceError: The masks belong to different models, or give one neuron different means.
    """
    first, *others = masks
    if not others:
        return first
    model = first.model
    for mask in others:
        for key, value in mask.model.to_json().items():
            known = getattr(model, key)
            if known is None:
                model = replace(model, **{key: value})
            elif value is not None and value != known:
                raise CVoiceError(
                    f"masks {first.value!r} and {mask.value!r} belong to different models "
                    f"({key}: {known!r} and {value!r}); join masks of one model only"
                )
    return NeuronMask(
        value="+".join(mask.value for mask in masks),
        model=model,
        layers=tuple(_join_layers(masks)),
        language=first.language if len({mask.language for mask in masks}) == 1 else None,
        method={"name": "union", "parts": [dict(mask.method) for mask in masks]},
        created=first.created,
        extra={"parts": [mask.sha256 for mask in masks]},
    )


def _join_layers(masks: Sequence[NeuronMask]) -> Iterable[MaskedLayer]:
    for index in sorted({layer.layer for mask in masks for layer in mask.layers}):
        parts = [layer for mask in masks for layer in mask.layers if layer.layer == index]
        if any(part.means is None for part in parts):
            yield MaskedLayer(index, tuple(sorted({neuron for part in parts for neuron in part.neurons})))
            continue
        means: dict[int, float] = {}
        for part in parts:
            for neuron, mean in zip(part.neurons, part.means or (), strict=True):
                if means.setdefault(neuron, mean) != mean:
                    raise CVoiceError(
                        f"layer {index}, neuron {neuron}: the joined masks give it means {means[neuron]} and {mean}; "
                        "join masks that were located on one corpus"
                    )
        yield MaskedLayer(index, tuple(sorted(means)), tuple(means[neuron] for neuron in sorted(means)))


def _check_value(value: object, where: str) -> None:
    if not isinstance(value, str) or not _CLASS_NAME.fullmatch(value):
        raise CVoiceError(f'{where}: "value" is {value!r}, and should be a name of letters, digits, "_" and "-"')


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _read_model(model: object, where: str) -> ModelIdentity:
    if not isinstance(model, dict):
        raise CVoiceError(
            f'{where}: the header\'s "model" should be an object with name, architecture, num_layers, ...'
        )
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


def _read_layer(line: dict[str, Any], where: str) -> MaskedLayer:
    if "expert" in line:
        raise CVoiceError(f"{where}: experts of a mixture cannot be masked yet; use a mask of a dense model")
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
        return MaskedLayer(line["layer"], tuple(neurons), None if means is None else tuple(float(m) for m in means))
    except OverflowError:
        raise CVoiceError(f'{where}: a number in "means" is too large') from None


def _check_layer(layer: MaskedLayer, model: ModelIdentity, before: MaskedLayer | None, where: str) -> None:
    if before is not None and layer.layer <= before.layer:
        raise CVoiceError(f"{where}: layer {layer.layer} follows layer {before.layer}; layers ascend, one line each")
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
