"""The two jobs of this floor: locate (model and items to masks) and select (statistics to masks)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from cvoice_foundation.errors import CVoiceError, suggestion
from cvoice_foundation.files import output_folder, write_whole
from cvoice_tasks.items import load_items, read_items
from cvoice_tasks.values import LANGUAGES, Language
from intervention.bundled import model_path
from intervention.mask import NeuronMask
from intervention.neurons import architecture_of
from locate.corpus import Text, texts_of
from locate.record import record
from locate.select import VapeOptions, masks_of, vape
from locate.statistics import NeuronStatistics, load_counts

_LOG = logging.getLogger(__name__)
LanguageChoice = Literal["zh", "en", "both"]


def locate_masks(
    model_name: str,
    out: Path,
    *,
    data: Sequence[Path] = (),
    language: LanguageChoice = "both",
    options: VapeOptions | None = None,
    batch_size: int = 8,
    device: str | None = None,
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> list[NeuronMask]:
    """Finds the neurons that carry each value and writes a mask a value.

    Args:
        model_name: As ``from_pretrained`` takes it, or ``organism``.
        out: Folder for ``VALUE.jsonl``, ``statistics.safetensors`` and ``locate.json``.
        data: Items files; the bundled activation items if empty.
        language: Which languages to use, pooled.
        options: Of the method; its defaults if None.
        batch_size: Texts a batch.
        device: A torch device; the GPU if there is one.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        revision: Branch or commit of the model.
        trust_remote_code: Whether the model may run code of its own.
        progress: Whether to show a progress bar.

    Returns:
        The masks, in the order of the values; one may be empty, with a warning.

    Raises:
        CVoiceError: Data, model, options or folder are not right; nothing is then written.
    """
    options = options or VapeOptions()
    texts = read_texts(data, language)
    output_folder(out)
    model, tokenizer = load_model(model_name, device, dtype, revision, trust_remote_code)
    header = {
        "model": {
            "name": model_name,
            "revision": getattr(model.config, "_commit_hash", None) or revision,
            "architecture": type(model).__name__,
        },
        "language": language,
        "created": versions(),
    }
    statistics = record(model, tokenizer, texts, batch_size=batch_size, header=header, progress=progress)
    statistics.save(out / "statistics.safetensors")
    masks = _select(statistics, options)
    _write(masks, out)
    summary = {
        **statistics.header,
        "method": options.to_json(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "tokens": {f"{v}.{lang}": int(n) for (v, lang), n in zip(statistics.classes, statistics.tokens, strict=True)},
        "masks": {mask.value: {"neurons": mask.num_masked, "sha256": mask.sha256} for mask in masks},
    }
    write_whole(out / "locate.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    return masks


def select_masks(sources: Sequence[str], out: Path, options: VapeOptions) -> list[NeuronMask]:
    """Selects masks from stored statistics, without the model.

    Args:
        sources: Statistics files (merged), or ``NAME=counts.pt`` for each class of the public release's count files.
        out: Folder for one ``NAME.jsonl`` a class.
        options: Of the method.

    Raises:
        CVoiceError: The sources or the folder are not right; nothing is then written.
    """
    named = [source.partition("=") for source in sources if "=" in source and not Path(source).exists()]
    if named and len(named) != len(sources):
        raise CVoiceError("give either statistics files or NAME=counts.pt for every class, not both kinds")
    if named:
        names = [name for name, _, _ in named]
        if twice := {name for name in names if names.count(name) > 1}:
            raise CVoiceError(f"the class {min(twice)!r} is given twice; each has one file")
        statistics = load_counts({name: Path(path) for name, _, path in named})
    else:
        statistics, *others = [NeuronStatistics.load(Path(source)) for source in sources]
        for other in others:
            statistics = statistics.merge(other)
    masks = _select(statistics, options)
    output_folder(out)
    _write(masks, out)
    return masks


def read_texts(data: Sequence[Path], language: LanguageChoice) -> list[Text]:
    """The corpus of the given items files, or of the bundled activation items.

    The language of a file is told by its name (``...zh.jsonl``), else by ``language``.
    """
    if language not in (*LANGUAGES, "both"):
        raise CVoiceError(f"--language is {language!r}{suggestion(language, (*LANGUAGES, 'both'))}")
    wanted: tuple[Language, ...] = LANGUAGES if language == "both" else (language,)
    if not data:
        return [text for lang in wanted for text in texts_of(load_items("activation", lang), lang)]
    texts: list[Text] = []
    for path in data:
        named = next((lang for lang in LANGUAGES if path.name.endswith(f".{lang}.jsonl")), None)
        told = named or (language if language != "both" else None)
        if told is None:
            raise CVoiceError(f"{path}: which language? name it {path.stem}.zh.jsonl or .en.jsonl, or give --language")
        if told in wanted:
            texts += texts_of(read_items(path), told)
    if not texts:
        raise CVoiceError(f"the corpus is empty: none of the --data files is in --language {language}")
    return texts


def load_model(
    name: str, device: str | None, dtype: str, revision: str | None, trust_remote_code: bool
) -> tuple[Any, Any]:
    """Loads a model and its tokenizer.

    Raises:
        CVoiceError: There is no such model, or its architecture is not known.
    """
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise CVoiceError(f"--dtype is {dtype!r}{suggestion(dtype, ('auto', 'float32', 'bfloat16', 'float16'))}")
    where = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        architecture_of(transformers.AutoConfig.from_pretrained(model_path(name), **where))
        model = AutoModelForCausalLM.from_pretrained(model_path(name), dtype=dtype, **where)
        tokenizer = AutoTokenizer.from_pretrained(model_path(name), **where)
        model.to(torch.device(place))
    except CVoiceError:
        raise
    except (OSError, ValueError) as error:
        raise CVoiceError(f"--model {name}: cannot load this model: {str(error).splitlines()[0]}") from None
    except RuntimeError as error:
        raise CVoiceError(f"--device {place}: cannot put the model there: {str(error).splitlines()[0]}") from None
    return model.eval(), tokenizer


def versions() -> dict[str, str]:
    """What made a file: the versions that its content depends on."""
    return {"cvoice": version("cvoice"), "transformers": transformers.__version__, "torch": torch.__version__}


def _select(statistics: NeuronStatistics, options: VapeOptions) -> list[NeuronMask]:
    pooled = statistics.by_value()
    header: Mapping[str, Any] = statistics.header
    selected = vape(pooled, options)
    language = header.get("language")
    masks = masks_of(selected, pooled, method=options.to_json(), language=language, created=versions())
    for mask in masks:
        if not mask.layers:
            _LOG.warning("no neurons were selected for %s; try a higher --top-rate or a lower --bar-rate", mask.value)
    return masks


def _write(masks: Sequence[NeuronMask], out: Path) -> None:
    for mask in masks:
        mask.save(out / f"{mask.value}.jsonl")
