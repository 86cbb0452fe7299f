"""A masked checkpoint that any engine loads: the mask's columns rewritten on disk, everything else copied as it is.

Neuron j is column j of the down projection's weight W (``[out, in]``), so what a mask does can be written into it:

=====  ===============================================  =====================================================
mode   on disk                                          exactness
=====  ===============================================  =====================================================
zero   W[:, j] ← 0                                      bit for bit what the mask does in memory
scale  W[:, j] ← s · W[:, j]                            rounded to the checkpoint's dtype; exact for powers of two
mean   W[:, j] ← 0 and b ← b + Σ_j m_j · W[:, j]        rounded; only where the down projection has a bias
add    b ← b + s · Σ_j m_j · W[:, j]                    the same
=====  ===============================================  =====================================================
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from transformers import AutoConfig, AutoModelForCausalLM

from cvoice_foundation.errors import CVoiceError
from cvoice_foundation.files import output_folder, write_whole
from intervention.ablation import match_layers
from intervention.architectures import Architecture, architecture_of
from intervention.bundled import load_mask, model_path
from intervention.checkpoint import Checkpoint
from intervention.mask import MaskedLayer, NeuronMask
from intervention.modes import Mode, check_mode
from intervention.neurons import LayerNeurons

CONFIG_KEY = "cvoice_mask"
"""Where ``config.json`` of an exported checkpoint says which mask is in it."""

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        folder: The checkpoint.
        neurons: How many neurons are masked in it.
        tensors: How many tensors differ from the original's.
        exact: Whether it gives bit for bit what the mask gives in memory, in the same dtype.
    """

    folder: Path
    neurons: int
    tensors: int
    exact: bool


def export_masked(
    model: str,
    mask_name: str,
    out: Path,
    *,
    mode: str = "zero",
    strength: float | None = None,
    revision: str | None = None,
) -> Exported:
    """Writes a copy of a checkpoint with a mask in its weights.

    Files are copied one by one and the masked columns rewritten in the copy, so memory is that of one tensor.

    Args:
        model: A folder or a name on the hub, or ``organism``.
        mask_name: As ``mask=`` takes it.
        out: Folder for the checkpoint; must not be there yet, or be empty.
        mode: ``zero`` or ``scale``; ``mean`` and ``add`` where the down projection has a bias.
        strength: For scale and add.
        revision: Branch or commit on the hub.

    Raises:
        CVoiceError: The mask does not fit, the checkpoint is quantised or not safetensors, or the mode cannot be
            written into its weights; nothing is then left behind.
    """
    mask = load_mask(mask_name)
    checked, checked_strength = check_mode(mode, strength, mask)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CVoiceError(f"{out}: is not empty; choose another folder with --out")
    source = Checkpoint.open(_folder(model, revision))
    try:
        config = AutoConfig.from_pretrained(source.folder)
    except (OSError, ValueError, KeyError) as error:
        raise CVoiceError(f"{source.folder}: no configuration that transformers reads: {_first_line(error)}") from None
    _refuse_quantised(config, model)
    places = _places(config, mask)
    output_folder(out.parent)
    # Beside the goal, so that moving it there is one step.
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as made:
        copy = Path(made) / "checkpoint"
        copy.mkdir()
        try:
            _copy_files(source.folder, copy)
        except OSError as error:
            raise CVoiceError(f"{out}: the copy failed: {error.strerror or error}; is there room for it?") from None
        target = Checkpoint.open(copy)
        writer = _Writer(
            target, architecture_of(config), checked, 1.0 if checked_strength is None else checked_strength
        )
        for neurons, line in track(places, description="Exporting"):
            writer.write(neurons, line)
        if not writer.changed:
            raise CVoiceError(
                f"mask {mask.value!r} changes nothing in {model}: the weights of its neurons are zero already"
            )
        _write_config(copy, mask, checked, checked_strength)
        write_whole(copy / "README.md", _card(model, revision, mask, checked, checked_strength))
        if out.exists():
            out.rmdir()
        os.replace(copy, out)
    exact = checked in ("zero", "scale") and writer.exact
    return Exported(out, mask.num_masked, len(writer.changed), exact)


def _folder(model: str, revision: str | None) -> Path:
    path = Path(model_path(model)).expanduser()
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download

    patterns = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.py"]
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise CVoiceError(
            f"--model {model}: no such folder, and not on the hub: {str(error).splitlines()[0]}"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _refuse_quantised(config: Any, model: str) -> None:
    if getattr(config, "quantization_config", None) is not None:
        raise CVoiceError(
            f"{model} is quantised, and a column of packed weights cannot be rewritten; export the original checkpoint "
            "and quantise that"
        )


def _places(config: Any, mask: NeuronMask) -> Sequence[tuple[LayerNeurons, MaskedLayer]]:
    """Where the mask's neurons are, checked on a model without weights."""
    architecture_of(config)
    try:
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config)
    except (ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
        raise CVoiceError(f"transformers makes no model of this configuration: {_first_line(error)}") from None
    return list(match_layers(empty, mask))


def _copy_files(source: Path, target: Path) -> None:
    """Weights in safetensors and every small file beside them; other formats of the same weights are left behind."""
    for path in sorted(source.iterdir()):
        if path.is_file() and (path.suffix == ".safetensors" or path.suffix not in _WEIGHTS):
            of_others = path.name.endswith(".index.json") and "safetensors" not in path.name
            if of_others or path.name.startswith("README"):
                continue
            shutil.copyfile(path, target / path.name)


class _Writer:
    """Writes lines of a mask into a checkpoint."""

    def __init__(self, checkpoint: Checkpoint, architecture: Architecture, mode: Mode, strength: float) -> None:
        self._checkpoint, self._architecture = checkpoint, architecture
        self._mode, self._strength = mode, strength
        self.changed: set[str] = set()
        self.exact = True

    def write(self, neurons: LayerNeurons, line: MaskedLayer) -> None:
        names = self._architecture.names_on_disk(line.layer, line.expert)
        name = next((name for name in names if name in self._checkpoint), None)
        if name is None:
            raise CVoiceError(
                f"the checkpoint has no tensor {' or '.join(names)}; was it saved by transformers? "
                "docs/architectures.md has the names"
            )
        tensor = self._checkpoint.read(name)
        if tensor.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
            raise CVoiceError(f"{name} is {tensor.dtype}, a quantised format; export the original checkpoint")
        weight, axis = tensor, neurons.axis
        if neurons.experts is not None:
            axis = neurons.experts.axis_on_disk
            assert isinstance(line.expert, int)
            weight = tensor if "{expert}" in neurons.experts.on_disk else tensor[line.expert]
        if weight.ndim != 2 or weight.shape[axis] != neurons.width:
            raise CVoiceError(
                f"{name} has the shape {tuple(weight.shape)}, and the configuration says {neurons.width} neurons; is "
                "config.json this checkpoint's?"
            )
        index = torch.tensor(line.neurons)
        before = weight.index_select(axis, index)
        if self._mode in ("mean", "add"):
            self._move_bias(name, before, axis, line)
        if self._mode == "add":
            return
        after = torch.zeros_like(before)
        if self._mode == "scale":
            after = (before.double() * self._strength).to(before.dtype)
            self.exact &= torch.equal(after.double(), before.double() * self._strength)
        self._check_finite(name, after)
        if not torch.equal(before, after):
            weight.index_copy_(axis, index, after)
            self._checkpoint.overwrite(name, tensor)
            self.changed.add(name)

    def _check_finite(self, name: str, values: torch.Tensor) -> None:
        if not bool(torch.isfinite(values).all()):
            raise CVoiceError(
                f"mode={self._mode}, strength={self._strength}: {name} would hold values that are not finite in "
                f"{str(values.dtype).removeprefix('torch.')}; use a smaller strength"
            )

    def _move_bias(self, name: str, columns: torch.Tensor, axis: int, line: MaskedLayer) -> None:
        bias_name = f"{name.removesuffix('weight')}bias"
        if not name.endswith("weight") or bias_name not in self._checkpoint:
            raise CVoiceError(
                f"mode={self._mode} moves a bias, and the down projection {name} has none: other engines would need "
                "another architecture; use mode=zero, or evaluate with neuron_masked_hf"
            )
        bias = self._checkpoint.read(bias_name)
        means = torch.tensor(line.means, dtype=torch.float64) * (self._strength if self._mode == "add" else 1.0)
        moved = bias.double() + (columns.double() if axis == 1 else columns.double().T) @ means
        self._check_finite(bias_name, moved.to(bias.dtype))
        self._checkpoint.overwrite(bias_name, moved.to(bias.dtype))
        self.changed.add(bias_name)


def _header(mask: NeuronMask, mode: Mode, strength: float | None) -> dict[str, Any]:
    return mask.header() | {"sha256": mask.sha256, "neurons": mask.num_masked, "mode": mode, "strength": strength}


def _write_config(folder: Path, mask: NeuronMask, mode: Mode, strength: float | None) -> None:
    path = folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text("utf-8"))
    if CONFIG_KEY in config:
        raise CVoiceError(
            f"the checkpoint has the mask {config[CONFIG_KEY].get('value')!r} in it already; export from the original, "
            "with --mask a+b for both"
        )
    write_whole(
        path, json.dumps(config | {CONFIG_KEY: _header(mask, mode, strength)}, indent=2, ensure_ascii=False) + "\n"
    )


def _card(model: str, revision: str | None, mask: NeuronMask, mode: Mode, strength: float | None) -> str:
    header: Mapping[str, Any] = _header(mask, mode, strength)
    told = json.dumps(header, indent=2, ensure_ascii=False)
    what = {"zero": "switched off", "scale": f"scaled by {strength}", "mean": "held at their mean"}.get(mode, "steered")
    return (
        f"---\nbase_model: {model}\ntags: [cvoice, neuron-mask]\n---\n# {model}, {mask.num_masked} neurons {what}\n\n"
        f"A copy of `{model}`{f' at `{revision}`' if revision else ''} whose weights hold a neuron mask "
        f"(`{mask.value}`), for experiments on what these neurons do. Made by `cvoice export`; everything but the "
        f"masked columns is the original's, and so is its licence.\n\n```json\n{told}\n```\n"
    )
