"""Training that goes on where it was interrupted: weights and the optimiser's moments after a whole pass."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cvoice_foundation.errors import CVoiceError
from cvoice_foundation.files import write_whole_by

NAME = "checkpoint.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def digest(depends_on: Mapping[str, Any]) -> str:
    """SHA-256 of what a training depends on, so that no other one goes on from its checkpoint."""
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def save_checkpoint(
    folder: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer, epochs: int, identity: str
) -> None:
    """Writes what a training needs to go on after so many passes; random numbers are seeded anew each pass."""
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"weight:{name}"] = parameter.detach()
        for moment in _MOMENTS:
            tensors[f"{moment}:{name}"] = optimiser.state[parameter][moment]
    told = {"epochs": str(epochs), "identity": identity}
    write_whole_by(folder / NAME, lambda temporary: save_file(tensors, temporary, told))


def load_checkpoint(folder: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer, identity: str) -> int:
    """Takes a checkpoint's weights and moments over, if there is one.

    Returns:
        Passes that are done; 0 without a checkpoint.

    Raises:
        CVoiceError: It is damaged, or of another training.
    """
    path = folder / NAME
    if not path.is_file():
        return 0
    try:
        with safe_open(path, "pt") as file, torch.no_grad():
            told = file.metadata() or {}
            if told.get("identity") != identity:
                raise CVoiceError(f"{path} is of another recipe or other items; delete it, or choose another --out")
            for name, parameter in model.named_parameters():
                parameter.copy_(file.get_tensor(f"weight:{name}"))
                moments = {moment: file.get_tensor(f"{moment}:{name}") for moment in _MOMENTS}
                # AdamW counts its steps on the CPU, wherever the weights are.
                optimiser.state[parameter] = {
                    moment: tensor if moment == "step" else tensor.to(parameter.device)
                    for moment, tensor in moments.items()
                }
            return int(told["epochs"])
    except (OSError, SafetensorError, KeyError) as error:
        raise CVoiceError(f"{path}: damaged ({error}); delete it to begin anew") from None
