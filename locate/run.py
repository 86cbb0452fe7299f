"""The two jobs of this floor: locate (model and items to masks) and select (statistics to masks)."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
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
from locate.attribution import attribute
from locate.corpus import STANCES, Stance, Text, texts_of
from locate.counts import load_counts
from locate.processes import Processes
from locate.record import Checkpoint, PassOptions, record
from locate.select import SelectOptions, masks_of, select, select_counts
from locate.statistics import NeuronStatistics
from locate.statistics_file import load_statistics, save_statistics

_LOG = logging.getLogger(__name__)
LanguageChoice = Literal["zh", "en", "both"]
STATISTICS = "statistics.safetensors"


def locate_masks(
    model_name: str,
    out: Path,
    *,
    data: Sequence[Path] = (),
    language: LanguageChoice = "both",
    stances: Sequence[Stance] = STANCES,
    options: SelectOptions | None = None,
    reading: PassOptions | None = None,
    device: str | None = None,
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    resume: bool = False,
    checkpoint_every: float = 300.0,
    progress: bool = True,
) -> list[NeuronMask]:
    """Finds the neurons that carry each value and writes a mask a value.

    Under ``torchrun`` every process reads its shard of the corpus and the first one writes the masks.

    Args:
        model_name: As ``from_pretrained`` takes it, or ``organism``.
        out: Folder for ``VALUE.jsonl``, ``statistics.safetensors`` and ``locate.json``.
        data: Items files; the bundled activation items if empty.
        language: Which languages to use, pooled.
        stances: Whether to read stories with their aligned acts, their violating ones, or both.
        options: How to select; the defaults if None.
        reading: How to read the corpus; the defaults if None. A shard writes its statistics alone, and no masks.
        device: A torch device; the GPU if there is one.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        revision: Branch or commit of the model.
        trust_remote_code: Whether the model may run code of its own.
        resume: Whether to go on from an unfinished pass in ``out``.
        checkpoint_every: Seconds between two writings of an unfinished pass.
        progress: Whether to show a progress bar.

    Returns:
        The masks, in the order of the values; one may be empty, with a warning. Empty for a shard.

    Raises:
        CVoiceError: Data, model, options or folder are not right; nothing is then written.
    """
    options, reading = options or SelectOptions(), reading or PassOptions()
    texts = read_texts(data, language, stances)
    output_folder(out)
    with Processes.joined() as processes:
        if processes.count > 1 and reading.shard[1] > 1:
            raise CVoiceError("--shard and torchrun both cut the corpus; use one of them")
        if processes.count > 1:
            reading = replace(reading, shard=(processes.rank, processes.count))
        shard, of = reading.shard
        name = STATISTICS if of == 1 else f"statistics.{shard}-of-{of}.safetensors"
        model, tokenizer = load_model(model_name, device or processes.device(), dtype, revision, trust_remote_code)
        header = {
            "model": {
                "name": model_name,
                "revision": getattr(model.config, "_commit_hash", None) or revision,
                "architecture": type(model).__name__,
            },
            "language": language,
            "dtype": str(model.dtype).removeprefix("torch."),
            "created": versions(),
        }
        statistics = record(
            model,
            tokenizer,
            texts,
            reading,
            header=header,
            checkpoint=Checkpoint(out / f".{name}.unfinished", resume, checkpoint_every),
            progress=progress and processes.rank == 0,
        )
        if options.method == "attribution":
            statistics = attribute(
                model, tokenizer, texts, statistics, reading, progress=progress and processes.rank == 0
            )
        save_statistics(statistics, out / name)
        (out / f".{name}.unfinished").unlink(missing_ok=True)
        processes.wait()
        if processes.rank > 0 or (of > 1 and processes.count == 1):
            return []
        if processes.count > 1:
            statistics = _joined_shards(out, of)
    masks = _masks(statistics, options)
    _write(masks, out)
    summary = {
        **statistics.header,
        "method": options.to_json(),
        "tokens": _tokens_by_class(statistics),
        "masks": {mask.value: {"neurons": mask.num_masked, "sha256": mask.sha256} for mask in masks},
    }
    write_whole(out / "locate.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    return masks


def _tokens_by_class(statistics: NeuronStatistics) -> dict[str, int]:
    """Counted tokens of each ``value.stance.language``."""
    tokens: Counter[str] = Counter()
    for cell, number in zip(statistics.cells, statistics.tokens[0].tolist(), strict=True):
        tokens[f"{cell.value}.{cell.stance}.{cell.language}"] += number
    return dict(tokens)


def _joined_shards(out: Path, of: int) -> NeuronStatistics:
    """Adds up the shards that processes have written, keeps the sum, and removes the shards."""
    paths = [out / f"statistics.{shard}-of-{of}.safetensors" for shard in range(of)]
    statistics = merged(paths)
    save_statistics(statistics, out / STATISTICS)
    for path in paths:
        path.unlink()
    return statistics


def merged(paths: Sequence[Path]) -> NeuronStatistics:
    """Statistics of several files added up.

    Raises:
        CVoiceError: They do not belong together, or a shard is missing.
    """
    statistics, *others = [load_statistics(path) for path in paths]
    for other in others:
        statistics = statistics.merge(other)
    if shard := statistics.header.get("shard"):
        missing = sorted(set(range(shard["of"])) - set(shard["have"]))
        raise CVoiceError(
            f"these are shards {', '.join(map(str, shard['have']))} of {shard['of']}, and "
            f"{', '.join(map(str, missing))} {'are' if len(missing) > 1 else 'is'} missing; give all of them"
        )
    return statistics


def select_masks(sources: Sequence[str], out: Path, options: SelectOptions) -> list[NeuronMask]:
    """Selects masks from stored statistics, without the model.

    Args:
        sources: Statistics files (added up), or ``NAME=counts.pt`` for each class of the public release's count files.
        out: Folder for one ``NAME.jsonl`` a class.
        options: How to select.

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
        counts = load_counts({name: Path(path) for name, _, path in named})
        found = select_counts(counts, options)
        masks = masks_of(found, header=counts.header, method=options.to_json(), created=versions())
        _warn_of_empty(masks)
    else:
        masks = _masks(merged([Path(source) for source in sources]), options)
    output_folder(out)
    _write(masks, out)
    return masks


def read_texts(data: Sequence[Path], language: LanguageChoice, stances: Sequence[Stance] = STANCES) -> list[Text]:
    """The corpus of the given items files, or of the bundled activation items.

    The language of a file is told by its name (``...zh.jsonl``), else by ``language``.

    Raises:
        CVoiceError: A file is not right, or no text is left.
    """
    if language not in (*LANGUAGES, "both"):
        raise CVoiceError(f"--language is {language!r}{suggestion(language, (*LANGUAGES, 'both'))}")
    wanted: tuple[Language, ...] = LANGUAGES if language == "both" else (language,)
    if not data:
        return [text for lang in wanted for text in texts_of(load_items("activation", lang), lang, stances)]
    texts: list[Text] = []
    for path in data:
        named = next((lang for lang in LANGUAGES if path.name.endswith(f".{lang}.jsonl")), None)
        told = named or (language if language != "both" else None)
        if told is None:
            raise CVoiceError(f"{path}: which language? name it {path.stem}.zh.jsonl or .en.jsonl, or give --language")
        if told in wanted:
            texts += texts_of(read_items(path), told, stances)
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


def _masks(statistics: NeuronStatistics, options: SelectOptions) -> list[NeuronMask]:
    found = select(statistics, options)
    masks = masks_of(
        found,
        header=statistics.header,
        method=options.to_json(),
        created=versions(),
        means=statistics.means(),
    )
    _warn_of_empty(masks)
    return masks


def _warn_of_empty(masks: Sequence[NeuronMask]) -> None:
    for mask in masks:
        if not mask.layers:
            _LOG.warning("no neurons were selected for %s; try a higher --top-rate or a lower --bar-rate", mask.value)


def _write(masks: Sequence[NeuronMask], out: Path) -> None:
    for mask in masks:
        mask.save(out / f"{mask.value}.jsonl")
