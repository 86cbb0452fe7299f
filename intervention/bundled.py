"""Names that users write: a mask's path or bundled name, joined by +; the bundled model's name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from cvoice_foundation.errors import CVoiceError, suggestion
from intervention.mask import NeuronMask, union

ORGANISM = "organism"
"""Name of the bundled model, and of the package that holds it and its masks. Found as a resource, never imported."""


def organism_folder() -> Path:
    """The folder of the bundled model, as ``from_pretrained`` takes it."""
    return Path(str(resources.files(ORGANISM))) / "model"


def model_path(name: str) -> str:
    """What to hand to ``from_pretrained`` for a model's name: the bundled model's folder for ``organism``.

    A folder of one's own that is called so is written ``./organism``.
    """
    return str(organism_folder()) if name == ORGANISM else name


def _masks_folder() -> Path:
    return Path(str(resources.files(ORGANISM))) / "masks"


def bundled_masks() -> list[str]:
    """Names of the bundled masks, e.g. ``organism/patriotism``."""
    folder = _masks_folder()
    return sorted(
        f"{ORGANISM}/{path.relative_to(folder).with_suffix('').as_posix()}" for path in folder.rglob("*.jsonl")
    )


def bundled_masks_folder(name: str) -> Path | None:
    """The folder of ``organism`` (masks that were located) or ``organism/truth`` (reserved neurons); else None."""
    folder = _masks_folder() / name.removeprefix(ORGANISM).strip("/")
    inside = name.split("/")[0] == ORGANISM and folder.is_dir() and any(folder.glob("*.jsonl"))
    return folder if inside else None


def load_mask(name: str) -> NeuronMask:
    """Loads a mask, or several that act together.

    Args:
        name: A mask file's path, or a bundled mask's name, or several of these joined by ``+``.

    Raises:
        CVoiceError: There is no such file and no such bundled mask, or a file is not a mask.
    """
    if "+" in name and not Path(name).expanduser().exists():
        return union([_load_one(part.strip()) for part in name.split("+")])
    return _load_one(name)


def _load_one(name: str) -> NeuronMask:
    path = Path(name).expanduser()
    if path.is_file():
        return NeuronMask.load(path)
    known = bundled_masks()
    if name in known:
        return NeuronMask.load(_masks_folder() / f"{name.removeprefix(f'{ORGANISM}/')}.jsonl")
    if path.is_dir():
        masks = sorted(file.name for file in path.glob("*.jsonl"))
        raise CVoiceError(f"mask={name} is a folder; name a file in it{suggestion('', masks)}")
    near = [str(file) for file in path.parent.glob("*.jsonl")] if path.parent.is_dir() else []
    raise CVoiceError(f"mask={name}: no such file, and no bundled mask of that name{suggestion(name, known + near)}")
