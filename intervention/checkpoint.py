"""A checkpoint in safetensors, in one file or in shards, of which single tensors are read and overwritten."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from cvoice_foundation.errors import CVoiceError

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors on disk.

    Attributes:
        folder: Where the files lie.
    """

    folder: Path
    _shard_of: dict[str, Path] = field(repr=False)

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Reads which tensor is in which file.

        Raises:
            CVoiceError: There are no safetensors files, or one is missing or cannot be read.
        """
        try:
            if (folder / _INDEX).is_file():
                index: dict[str, Any] = json.loads((folder / _INDEX).read_text("utf-8"))
                shards = {name: _beside(folder, file) for name, file in index["weight_map"].items()}
            else:
                with safe_open(str(folder / _SINGLE), framework="pt") as file:
                    shards = dict.fromkeys(file.keys(), folder / _SINGLE)
        except CVoiceError:
            raise
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise CVoiceError(
                f"{folder}: no checkpoint in safetensors there ({error}); save it anew with transformers' "
                "save_pretrained"
            ) from None
        if missing := sorted({path.name for path in shards.values() if not path.is_file()}):
            raise CVoiceError(f"{folder}: the shard {missing[0]} is missing; download the checkpoint again")
        return cls(folder, shards)

    def __contains__(self, name: str) -> bool:
        return name in self._shard_of

    def read(self, name: str) -> torch.Tensor:
        """One tensor.

        Raises:
            CVoiceError: The shard is damaged, or does not hold what the index says.
        """
        try:
            with safe_open(str(self._shard_of[name]), framework="pt") as file:
                # A copy: the tensor may lie over the file itself.
                tensor: torch.Tensor = file.get_tensor(name).clone()
        except (OSError, SafetensorError) as error:
            raise CVoiceError(
                f"{self._shard_of[name]}: cannot read {name} ({error}); download the checkpoint again"
            ) from None
        return tensor

    def overwrite(self, name: str, tensor: torch.Tensor) -> None:
        """Writes a tensor of the same shape and dtype over the one in the file; not a byte beside it changes."""
        path = self._shard_of[name]
        with path.open("r+b") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            start, end = json.loads(file.read(length))[name]["data_offsets"]
            data = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            assert len(data) == end - start
            file.seek(8 + length + start)
            file.write(data)


def _beside(folder: Path, file: object) -> Path:
    """A shard's path; an index that names files elsewhere would have those read, and overwritten."""
    if not isinstance(file, str) or Path(file).name != file:
        raise CVoiceError(
            f"{folder / _INDEX}: names the shard {file!r}, and shards lie beside their index; save the checkpoint anew "
            "with transformers' save_pretrained"
        )
    return folder / file
