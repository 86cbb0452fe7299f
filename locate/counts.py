"""ClassCounts: the table that every method by firing reads, one row a class; from statistics or from foreign files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cvoice_foundation.errors import CVoiceError
from intervention.architectures import Expert


class Site(NamedTuple):
    """One MLP of a model: where a run of the neuron axis lies.

    Attributes:
        layer: Index of the decoder layer.
        expert: None in a dense layer, an expert's index, or ``"shared"``.
        width: Its number of neurons.
    """

    layer: int
    expert: Expert
    width: int


@dataclass(frozen=True)
class ClassCounts:
    """How often each neuron fires on each class.

    Attributes:
        classes: Names.
        sites: The neuron axis: MLPs one after the other, layers ascending.
        tokens: ``[classes]``, int64: counted tokens.
        questions: ``[classes]``, int64: texts.
        fired: ``[classes, neurons]``, int64: tokens on which the neuron fired.
        header: Where they come from: ``model``, ``corpus``.
    """

    classes: tuple[str, ...]
    sites: tuple[Site, ...]
    tokens: torch.Tensor
    questions: torch.Tensor
    fired: torch.Tensor
    header: Mapping[str, Any] = field(default_factory=dict)


def load_counts(files: Mapping[str, Path]) -> ClassCounts:
    """Reads count files of the public value-neuron release, one a class.

    Such a file is a ``torch.save`` of ``{"token_num", "question_num", "over_zero": int32[layers, neurons]}``; it is
    loaded with ``weights_only=True``.

    Args:
        files: Class name -> file.

    Raises:
        CVoiceError: A file is not one, or the shapes differ.
    """
    tokens: list[int] = []
    questions: list[int] = []
    fired: list[torch.Tensor] = []
    for name, path in files.items():
        try:
            counts = torch.load(path, map_location="cpu", weights_only=True)
            over_zero = counts["over_zero"]
            tokens.append(int(counts["token_num"]))
            questions.append(int(counts["question_num"]))
            assert over_zero.ndim == 2
        except OSError as error:
            raise CVoiceError(f"{path}: cannot read the counts of {name}: {error.strerror or error}") from None
        except Exception as error:
            # torch.load raises a dozen kinds of errors for files that are not its own.
            raise CVoiceError(
                f"{path}: not a count file of {name} ({type(error).__name__}); expected a torch.save of "
                '{"token_num", "question_num", "over_zero": int32[layers, neurons]}'
            ) from None
        if fired and over_zero.shape != fired[0].shape:
            raise CVoiceError(
                f"{path}: {tuple(over_zero.shape)} layers and neurons, and the first file has {tuple(fired[0].shape)}"
            )
        fired.append(over_zero.to(torch.int64))
    layers, width = fired[0].shape
    return ClassCounts(
        classes=tuple(files),
        sites=tuple(Site(layer, None, width) for layer in range(layers)),
        tokens=torch.tensor(tokens),
        questions=torch.tensor(questions),
        fired=torch.stack(fired).flatten(1),
        header={"model": None, "corpus": {"sha256": None, "tokens": sum(tokens)}},
    )
