"""NeuronStatistics: how often each neuron fires on each class, and its mean activation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from cvoice_foundation.errors import CVoiceError
from cvoice_foundation.files import write_whole

FORMAT = "cvoice-neuron-statistics"
VERSION = 1
_TENSORS = ("tokens", "questions", "fired", "total")


@dataclass(frozen=True)
class NeuronStatistics:
    """Counts and sums over a corpus, by class; a class is a value in a language.

    Attributes:
        classes: (value, language) of each class; the language may be "" where it is not known.
        tokens: ``[classes]``, int64: counted tokens.
        questions: ``[classes]``, int64: texts.
        fired: ``[classes, layers, neurons]``, int64: tokens on which the neuron fired.
        total: ``[classes, layers, neurons]``, float64: sum of its activation over the tokens; None if not recorded.
        header: Where they come from: ``model``, ``corpus``, ``created``.
    """

    classes: tuple[tuple[str, str], ...]
    tokens: torch.Tensor
    questions: torch.Tensor
    fired: torch.Tensor
    total: torch.Tensor | None
    header: Mapping[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> tuple[str, ...]:
        """The values, each once, in the order of the classes."""
        return tuple(dict.fromkeys(value for value, _ in self.classes))

    def by_value(self) -> NeuronStatistics:
        """Pools the languages: one class a value."""
        rows = [[row for row, (value, _) in enumerate(self.classes) if value == name] for name in self.values]

        def pool(tensor: torch.Tensor) -> torch.Tensor:
            return torch.stack([tensor[places].sum(0) for places in rows])

        return NeuronStatistics(
            classes=tuple((value, "") for value in self.values),
            tokens=pool(self.tokens),
            questions=pool(self.questions),
            fired=pool(self.fired),
            total=None if self.total is None else pool(self.total),
            header=self.header,
        )

    def merge(self, other: NeuronStatistics) -> NeuronStatistics:
        """Statistics over both corpora; counts are exact, whatever the order.

        Raises:
            CVoiceError: They are of different models.
        """
        ours, theirs = (dict(s.header.get("model") or {}) for s in (self, other))
        if ours != theirs or self.fired.shape[1:] != other.fired.shape[1:]:
            raise CVoiceError(
                f"these statistics are of different models: {ours.get('name')} {tuple(self.fired.shape[1:])} and "
                f"{theirs.get('name')} {tuple(other.fired.shape[1:])}; merge statistics of one model"
            )
        classes = tuple(dict.fromkeys(self.classes + other.classes))

        def add(name: str) -> torch.Tensor:
            first, second = getattr(self, name), getattr(other, name)
            result = torch.zeros((len(classes), *first.shape[1:]), dtype=first.dtype)
            for part, statistics in ((first, self), (second, other)):
                result.index_add_(0, torch.tensor([classes.index(c) for c in statistics.classes]), part)
            return result

        corpora = [s.header.get("corpus") or {} for s in (self, other)]
        shas = sorted(str(corpus.get("sha256")) for corpus in corpora)
        corpus = {
            "sha256": hashlib.sha256("\n".join(shas).encode()).hexdigest(),
            "tokens": sum(int(corpus.get("tokens", 0)) for corpus in corpora),
            "parts": shas,
        }
        return NeuronStatistics(
            classes=classes,
            tokens=add("tokens"),
            questions=add("questions"),
            fired=add("fired"),
            total=None if self.total is None or other.total is None else add("total"),
            header={**self.header, "corpus": corpus},
        )

    def save(self, path: Path) -> None:
        """Writes a safetensors file, whole or not at all.

        Raises:
            CVoiceError: The folder cannot be written to.
        """
        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS if getattr(self, name) is not None}
        metadata = {"format": FORMAT, "version": VERSION, "classes": self.classes, **self.header}
        write_whole(path, save(tensors, metadata={"cvoice": json.dumps(metadata, sort_keys=True, ensure_ascii=False)}))

    @classmethod
    def load(cls, path: Path) -> NeuronStatistics:
        """Reads a statistics file.

        Raises:
            CVoiceError: It is not one, or of another version.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                header = json.loads((file.metadata() or {}).get("cvoice", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError, ValueError) as error:
            raise CVoiceError(f"{path}: not a statistics file ({error}); `cvoice locate` writes them") from None
        if header.pop("format", None) != FORMAT or not {"tokens", "questions", "fired"} <= tensors.keys():
            raise CVoiceError(f"{path}: a safetensors file, but not of neuron statistics; `cvoice locate` writes them")
        if (version := header.pop("version", None)) != VERSION:
            raise CVoiceError(f"{path}: statistics of version {version}, and this program reads version {VERSION}")
        classes = tuple((str(value), str(language)) for value, language in header.pop("classes"))
        return cls(classes, tensors["tokens"], tensors["questions"], tensors["fired"], tensors.get("total"), header)


def load_counts(files: Mapping[str, Path]) -> NeuronStatistics:
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
    return NeuronStatistics(
        classes=tuple((name, "") for name in files),
        tokens=torch.tensor(tokens),
        questions=torch.tensor(questions),
        fired=torch.stack(fired),
        total=None,
        header={"model": None, "corpus": {"sha256": None, "tokens": sum(tokens)}},
    )
