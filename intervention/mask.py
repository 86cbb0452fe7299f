"""NeuronMask: a set of neurons of a model, and its file format.

A mask file is JSON Lines made to be read, compared and reviewed: a header, then one line a layer that has neurons
(in a mixture of experts, one line an expert), layers ascending, indices ascending and unique.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cvoice_foundation.errors import CVoiceError
from cvoice_foundation.files import dump_json_lines, read_json_lines, write_whole
from intervention.architectures import Expert
from intervention.mask_lines import MaskedLayer, ModelIdentity, check_layer, check_value, read_layer, read_model

__all__ = ["MaskedLayer", "ModelIdentity", "NeuronMask", "union"]

FORMAT = "cvoice-neuron-mask"
VERSION = 1
_KNOWN_KEYS = frozenset({"format", "version", "value", "language", "model", "method", "corpus", "created"})


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
        check_value(self.value, "mask")
        for before, layer in zip((None, *self.layers), self.layers, strict=False):
            check_layer(layer, self.model, before, f"mask {self.value!r}, layer {layer.layer}")

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

    def only(self, layers: Collection[int] | None = None, experts: Collection[Expert] | None = None) -> NeuronMask:
        """The part of the mask that lies in some layers, and in some of their MLPs.

        Args:
            layers: Indices; None for all.
            experts: Expert indices, ``"shared"``, and None for dense layers; left out, all.

        Raises:
            CVoiceError: Nothing is left.
        """
        kept = tuple(
            line
            for line in self.layers
            if (layers is None or line.layer in layers) and (experts is None or line.expert in experts)
        )
        if not kept:
            raise CVoiceError(f"mask {self.value!r} has no neurons in layers {layers}, experts {experts}")
        chosen: dict[str, Any] = {"of": self.sha256, "layers": None if layers is None else sorted(layers)}
        chosen["experts"] = None if experts is None else sorted(experts, key=str)
        return replace(self, layers=kept, extra={**self.extra, "only": chosen})

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
        model = read_model(header.get("model"), where)
        check_value(header.get("value"), where)
        for key in ("method", "corpus", "created"):
            if not isinstance(header.get(key), dict | None):
                raise CVoiceError(f'{where}: "{key}" is not an object')
        layers: list[MaskedLayer] = []
        for number, line in lines:
            where = f"{path}, line {number}"
            layer = read_layer(line, where)
            check_layer(layer, model, layers[-1] if layers else None, where)
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
    for place in sorted({layer.place for mask in masks for layer in mask.layers}):
        parts = [layer for mask in masks for layer in mask.layers if layer.place == place]
        index, expert = parts[0].layer, parts[0].expert
        if any(part.means is None for part in parts):
            neurons = tuple(sorted({neuron for part in parts for neuron in part.neurons}))
            yield MaskedLayer(index, neurons, None, expert)
            continue
        means: dict[int, float] = {}
        for part in parts:
            for neuron, mean in zip(part.neurons, part.means or (), strict=True):
                if means.setdefault(neuron, mean) != mean:
                    raise CVoiceError(
                        f"layer {index}, neuron {neuron}: the joined masks give it means {means[neuron]} and {mean}; "
                        "join masks that were located on one corpus"
                    )
        yield MaskedLayer(index, tuple(sorted(means)), tuple(means[neuron] for neuron in sorted(means)), expert)
