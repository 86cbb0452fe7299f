"""Statistics as a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cvoice_foundation.errors import CVoiceError
from cvoice_foundation.files import write_whole_by
from locate.counts import Site
from locate.statistics import Cell, NeuronStatistics, PairCell

FORMAT = "cvoice-neuron-statistics"
VERSION = 2
_REQUIRED = frozenset({"texts", "tokens", "fired", "pairs"})


def save_statistics(statistics: NeuronStatistics, path: Path, **progress: Any) -> None:
    """Writes a statistics file, whole or not at all.

    Args:
        statistics: What to write.
        path: Where to.
        **progress: How far an unfinished pass has come; kept in the header.

    Raises:
        CVoiceError: The folder cannot be written to.
    """
    header = {
        "format": FORMAT,
        "version": VERSION,
        "sites": statistics.sites,
        "cells": statistics.cells,
        "pair_cells": statistics.pair_cells,
        **statistics.header,
        **progress,
    }
    tensors = {name: tensor.contiguous() for name, tensor in statistics.tensors().items()}
    metadata = {"cvoice": json.dumps(header, sort_keys=True, ensure_ascii=False)}
    try:
        write_whole_by(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))
    except SafetensorError as error:
        raise CVoiceError(f"{path}: cannot be written: {error}; choose another folder") from None


def load_statistics(path: Path) -> NeuronStatistics:
    """Reads a statistics file.

    Raises:
        CVoiceError: It is not one, or of another version.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            header: Mapping[str, Any] = json.loads((file.metadata() or {}).get("cvoice", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise CVoiceError(f"{path}: not a statistics file ({error}); `cvoice locate` writes them") from None
    if header.get("format") != FORMAT:
        raise CVoiceError(f"{path}: a safetensors file, but not of neuron statistics; `cvoice locate` writes them")
    if (version := header.get("version")) != VERSION:
        raise CVoiceError(f"{path}: statistics of version {version}, and this program reads version {VERSION}")
    try:
        statistics = NeuronStatistics(
            sites=tuple(Site(*site) for site in header["sites"]),
            cells=tuple(Cell(*cell) for cell in header["cells"]),
            pair_cells=tuple(PairCell(*cell) for cell in header["pair_cells"]),
            header={
                key: value
                for key, value in header.items()
                if key not in ("format", "version", "sites", "cells", "pair_cells")
            },
            **tensors,
        )
        assert tensors.keys() >= _REQUIRED
        assert statistics.fired.shape == (2, len(statistics.cells), statistics.num_neurons)
    except (KeyError, TypeError, AttributeError, AssertionError):
        raise CVoiceError(f"{path}: the statistics in it do not fit together; locate again") from None
    return statistics
