"""Other people's mask files: lists of neuron indices by class and layer, as LAPE's release and its followers save them.

Such a file is a ``torch.save`` of ``List[class][layer] -> LongTensor`` of neuron indices. It names neither its classes
nor its model, so both are told by whoever imports it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cvoice_foundation.errors import CVoiceError
from cvoice_foundation.files import output_folder, write_whole_by
from intervention.architectures import architecture_of
from intervention.bundled import model_path
from intervention.mask import MaskedLayer, ModelIdentity, NeuronMask
from intervention.mask_lines import check_value

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_MOST_LAYERS = 10_000
_EXPECTED = "expected a torch.save of List[class][layer] -> LongTensor of neuron indices, as LAPE's release has it"


def import_masks(path: Path, names: Sequence[str], model: str, out: Path) -> list[NeuronMask]:
    """Turns a LAPE-style file into one mask file a class.

    Args:
        path: The file; loaded with ``weights_only=True``, so it cannot run code.
        names: Of its classes, in its order.
        model: The model that the masks are of. If its configuration lies here, layers and neurons are checked against
            it now, otherwise when a mask is applied.
        out: Folder for ``NAME.jsonl``.

    Raises:
        CVoiceError: It is not such a file, names and classes do not match, or an index does not fit the model;
            nothing is then written.
    """
    classes = _read(path)
    if len(names) != len(classes):
        raise CVoiceError(f"{path} has {len(classes)} classes, and --names gives {len(names)} ({', '.join(names)})")
    for name in names:
        check_value(name, "--names")
    if len(set(names)) < len(names):
        raise CVoiceError(f"--names gives a name twice ({', '.join(names)}); every class has its own")
    identity = _identity(model, len(classes[0]))
    masks = [
        _mask(name, layers, identity, f"{path}, class {name}") for name, layers in zip(names, classes, strict=True)
    ]
    output_folder(out)
    for mask in masks:
        mask.save(out / f"{mask.value}.jsonl")
    return masks


def export_masks(masks: Sequence[NeuronMask], path: Path) -> None:
    """Writes masks as one LAPE-style file, a class a mask, in their order.

    Args:
        masks: Of one dense model.
        path: The file.

    Raises:
        CVoiceError: The masks are of different models, or hold experts, for which that format has no place.
    """
    depths = {mask.model.num_layers for mask in masks}
    models = {mask.model.name for mask in masks} - {None}
    if len(depths) != 1 or len(models) > 1:
        raise CVoiceError(
            f"these masks are of different models ({', '.join(sorted(map(str, models)))}; {sorted(depths)} layers); a "
            ".pth file holds masks of one"
        )
    for mask in masks:
        if expert := next((line for line in mask.layers if line.expert is not None), None):
            raise CVoiceError(
                f"mask {mask.value!r} holds neurons of experts (layer {expert.layer}), and .pth files of this kind "
                "have no place for them; keep the .jsonl"
            )
    (depth,) = depths
    highest = max((line.neurons[-1] for mask in masks for line in mask.layers), default=0)
    if depth > _MOST_LAYERS or highest >= 1 << 31:
        raise CVoiceError(f"a mask of {depth} layers, with neurons up to {highest}, is of no model; check its header")
    classes = []
    for mask in masks:
        of_layer = {line.layer: line.neurons for line in mask.layers}
        classes.append([torch.tensor(of_layer.get(layer, ()), dtype=torch.long) for layer in range(depth)])
    write_whole_by(path, lambda temporary: torch.save(classes, temporary))


def _read(path: Path) -> list[list[torch.Tensor]]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CVoiceError(f"{path}: cannot read this mask file: {error.strerror or error}") from None
    except Exception as error:
        # torch.load raises a dozen kinds of errors for files that are not its own.
        raise CVoiceError(f"{path}: not a file of masks ({type(error).__name__}); {_EXPECTED}") from None
    if isinstance(content, Mapping):
        raise CVoiceError(_told_of_mapping(path, content))
    if not isinstance(content, list | tuple) or not content:
        raise CVoiceError(f"{path}: holds {_kind(content)}; {_EXPECTED}")
    classes = []
    for number, layers in enumerate(content):
        if not isinstance(layers, list | tuple) or not layers:
            raise CVoiceError(f"{path}, class {number}: holds {_kind(layers)}; {_EXPECTED}")
        if len(layers) != len(content[0]):
            raise CVoiceError(f"{path}, class {number}: {len(layers)} layers, and class 0 has {len(content[0])}")
        classes.append([_indices(value, f"{path}, class {number}, layer {i}") for i, value in enumerate(layers)])
    return classes


def _told_of_mapping(path: Path, content: Mapping[Any, Any]) -> str:
    inner = next(iter(content.values()), None)
    if isinstance(inner, Mapping) and {"steering_vector", "steering_coefficient"} & inner.keys():
        return (
            f"{path}: a file of lm-eval's `steered` model class: it adds vectors to hooked modules and names no "
            "neurons; run it with --model steered"
        )
    if {"over_zero", "token_num"} & content.keys():
        return f"{path}: a count file, not a mask; select from it with: cvoice select NAME={path} ... --out DIR"
    return f"{path}: a mapping of {', '.join(map(str, list(content)[:4]))}; {_EXPECTED}"


def _indices(value: Any, where: str) -> torch.Tensor:
    plain = isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    if plain and value.dtype == torch.bool:
        raise CVoiceError(f"{where}: a mask of true and false; give the indices of its neurons (tensor.nonzero())")
    if not plain or value.ndim != 1 or value.dtype not in _INTEGERS:
        raise CVoiceError(f"{where}: holds {_kind(value)}; {_EXPECTED}")
    # One number repeated by a stride of zero is small on disk, and fills memory.
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise CVoiceError(f"{where}: a tensor of {value.numel()} indices that holds fewer; {_EXPECTED}")
    if len(value) and int(value.min()) < 0:
        raise CVoiceError(f"{where}: the index {int(value.min())} is negative")
    if len(set(value.tolist())) < len(value):
        raise CVoiceError(f"{where}: an index stands twice")
    indices: torch.Tensor = value.to(torch.long).sort().values
    return indices


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"a {type(value).__name__}" + (" without content" if isinstance(value, list | tuple) and not value else "")


def _identity(model: str, num_layers: int) -> ModelIdentity:
    """What is known of the model: its shape where its configuration lies on this machine."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model_path(model), local_files_only=True)
    except (OSError, ValueError):
        return ModelIdentity(model, None, None, num_layers, None)
    architecture_of(config)
    text = config.get_text_config()
    if text.num_hidden_layers != num_layers:
        raise CVoiceError(
            f"the masks are of a model of {num_layers} layers, and {model} has {text.num_hidden_layers}: is it this?"
        )
    architectures = getattr(config, "architectures", None) or [None]
    return ModelIdentity(model, None, architectures[0], num_layers, _width(config))


def _width(config: Any) -> int:
    """Neurons of the widest MLP, taken from a model without weights: configurations name it in many ways."""
    from transformers import AutoModelForCausalLM

    from intervention.neurons import find_neurons

    with torch.device("meta"):
        return max(mlp.width for mlp in find_neurons(AutoModelForCausalLM.from_config(config)))


def _mask(name: str, layers: Sequence[torch.Tensor], model: ModelIdentity, where: str) -> NeuronMask:
    lines = []
    for layer, indices in enumerate(layers):
        if not len(indices):
            continue
        if model.num_neurons is not None and int(indices[-1]) >= model.num_neurons:
            raise CVoiceError(
                f"{where}, layer {layer}: the index {int(indices[-1])}, and {model.name} has {model.num_neurons} "
                "neurons a layer; is it this model?"
            )
        lines.append(MaskedLayer(layer, tuple(indices.tolist()), None))
    return NeuronMask(name, model, tuple(lines), method={"name": "imported", "format": "lape"})
