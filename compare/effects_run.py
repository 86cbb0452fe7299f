"""``cvoice effects``: a sweep over masks and matched random masks, and what it shows, as ``effects.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from compare.effects import ALPHA, Cell, of_runs, recognitions
from compare.page.build import write_page
from compare.perplexity import perplexity_changes
from compare.runs import Run, Settings
from compare.sweep import sweep
from compare.together import together
from cvoice_foundation.errors import CVoiceError
from cvoice_foundation.files import output_folder, write_whole
from cvoice_tasks.values import VALUE_KEYS
from intervention.bundled import bundled_masks_folder
from intervention.mask import NeuronMask
from locate.controls import matched_random_masks
from locate.statistics_file import load_statistics

FORMAT = "cvoice-effects"
MOST_FLIPPED = 12
"""Flipped stories shown of each mask."""


def measure_effects(
    settings: Settings,
    masks_folder: Path,
    out: Path,
    *,
    controls: int = 20,
    stats: Path | None = None,
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Runs the baseline, every mask of a folder and its controls, and writes ``effects.json``.

    Args:
        settings: Model, tasks, mode, ...
        masks_folder: With mask files, ``*.jsonl``.
        out: Folder for ``effects.json`` and the runs; an interrupted sweep goes on from them.
        controls: Random masks a mask.
        stats: Statistics to match firing rates by; if None, ``statistics.safetensors`` beside the masks, if there.
        seed: Of controls, intervals and tests.
        device: A torch device.
        progress: Whether to show a progress bar.

    Returns:
        What ``effects.json`` holds; docs/effects.md has the keys.

    Raises:
        CVoiceError: There are no masks, one is empty or does not fit, or a task is not known.
    """
    masks = read_masks(masks_folder)
    beside = masks_folder / "statistics.safetensors"
    source = stats or (beside if beside.is_file() else None)
    statistics = None if source is None else load_statistics(source)
    drawn = {mask.value: matched_random_masks(mask, controls, seed, statistics) for mask in masks}
    everything = [*masks, *(control for of_mask in drawn.values() for control in of_mask)]
    output_folder(out)
    baseline, *runs = sweep(settings, everything, out, device=device, progress=progress)
    by_name = {run.name: run for run in runs}
    masked = [by_name[mask.value] for mask in masks]
    of_controls = {name: [by_name[control.value] for control in of_mask] for name, of_mask in drawn.items()}
    with Console(stderr=True, quiet=not progress).status("Comparing runs"):
        cells, specificities, abilities = of_runs(baseline, masked, of_controls, seed=seed)
        recognised = recognitions(baseline, masked, seed=seed)
        pooled = together(baseline, masked, of_controls, seed=seed)
        perplexities = perplexity_changes(baseline, masked, of_controls, seed=seed)
    unscored = sorted(task for task, numbers in baseline.others.items() if not numbers)
    result = {
        "format": FORMAT,
        "version": 3,
        "settings": asdict(settings) | {"controls": controls, "seed": seed},
        "matched_by": "layer" if statistics is None else "layer and firing-rate decile",
        "loaded": dict(baseline.loaded),
        "asked": dict(baseline.asked),
        "created": {name: version(name) for name in ("cvoice", "lm-eval", "transformers", "torch")},
        "masks": [_mask_told(mask, by_name[mask.value]) for mask in masks],
        "cells": [asdict(cell) for cell in cells],
        "together": None if pooled is None else asdict(pooled),
        "specificity": [asdict(found) for found in specificities],
        "ability": [asdict(found) for found in abilities],
        "recognition": [asdict(found) for found in recognised],
        "perplexity": [asdict(found) for found in perplexities],
        "flipped": [flip for run in masked for flip in _flipped(baseline, run)],
        "flips": {run.name: _count_flips(baseline, run) for run in masked},
        "remarks": remarks(cells, controls, unscored=unscored, passages=len(baseline.passages)),
    }
    write_whole(out / "effects.json", json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_page(result, out / "report.html")
    return result


def read_masks(folder: Path) -> list[NeuronMask]:
    """The masks of a folder, named by their headers; of a file, that one; of a bundled name, its masks.

    Raises:
        CVoiceError: There is none, or one is empty.
    """
    paths = [folder] if folder.is_file() else sorted(folder.glob("*.jsonl"))
    if not paths and (bundled := bundled_masks_folder(folder.as_posix())) is not None:
        paths = sorted(bundled.glob("*.jsonl"))
    if not paths:
        raise CVoiceError(f"{folder}: no mask files (*.jsonl) in it; `cvoice locate --out {folder}` writes them")
    masks = [NeuronMask.load(path) for path in paths]
    if empty := [str(path) for path, mask in zip(paths, masks, strict=True) if not mask.layers]:
        raise CVoiceError(f"{empty[0]}: the mask is empty; take it away, or locate with a higher --top-rate")
    # Two files may have one name in their headers (a mask, and the same by another method): told apart by file.
    names = [mask.value for mask in masks]
    masks = [
        replace(mask, value=path.stem) if names.count(mask.value) > 1 else mask
        for path, mask in zip(paths, masks, strict=True)
    ]
    # In the order of the values, so that a matrix of both has its own effects on the diagonal.
    order = {value: place for place, value in enumerate(VALUE_KEYS)}
    return sorted(masks, key=lambda mask: order.get(mask.value, len(order)))


def _mask_told(mask: NeuronMask, run: Run) -> dict[str, Any]:
    layers: dict[str, int] = {}
    for line in mask.layers:
        layers[str(line.layer)] = layers.get(str(line.layer), 0) + len(line.neurons)
    return {
        "name": mask.value,
        "sha256": mask.sha256,
        "neurons": mask.num_masked,
        "of_layers": mask.model.num_layers,
        "layers": layers,
        "method": dict(mask.method),
        "never_active": run.never_active,
    }


def _count_flips(baseline: Run, run: Run) -> dict[str, int]:
    """How many lettered choices changed, and of how many."""
    changed = sum(run.chosen[key][0] != choice for key, (choice, _) in baseline.chosen.items())
    return {"changed": changed, "of": len(baseline.chosen)}


def _flipped(baseline: Run, run: Run) -> list[dict[str, Any]]:
    """Documents whose chosen letter changed, the value of the mask's name first."""
    changed = [key for key, (choice, _) in baseline.chosen.items() if run.chosen.get(key, (choice, ""))[0] != choice]
    changed.sort(key=lambda key: (not key[1].startswith(run.name), key))
    flips = []
    for key in changed[:MOST_FLIPPED]:
        family, item, language, order = key
        story, option_a, option_b = baseline.texts[key]
        (before, said_before), (after, said_after) = baseline.chosen[key], run.chosen[key]
        flips.append(
            {
                "mask": run.name,
                "family": family,
                "item": item,
                "language": language,
                "story": story,
                "options": {"A": option_a, "B": option_b},
                "aligned": "AB"[int(order)],
                "before": before,
                "after": after,
                "said_before": said_before,
                "said_after": said_after,
            }
        )
    return flips


def remarks(
    cells: Sequence[Cell], controls: int, *, unscored: Sequence[str] = (), passages: int | None = None
) -> list[str]:
    """What a reader of the numbers should know before believing or doubting them.

    Args:
        cells: The matrix.
        controls: Random masks a mask.
        unscored: Tasks that gave no number a document.
        passages: How many neutral passages there were; None says nothing of them.
    """
    told = []
    if controls == 0:
        told.append("No random masks were run (--controls 0), so nothing is claimed.")
    elif 1 / (controls + 1) > ALPHA:
        number = "1 random mask" if controls == 1 else f"{controls} random masks"
        told.append(f"With {number} a mask no rank can pass 0.05; 19 is the fewest that can.")
    for family in dict.fromkeys(cell.family for cell in cells):
        of_family = [cell for cell in cells if cell.family == family]
        pairs = min(cell.acc.pairs for cell in of_family)
        least = 2.0 ** (1 - pairs) * len(of_family)
        if least > ALPHA:
            told.append(
                f"With {pairs} pairs a value the smallest p that one of {len(of_family)} cells ({family}) can have, "
                f"corrected, is {min(1.0, least):.2g}: no effect on a single value, however large, can be claimed. Use "
                "more items."
            )
    told += [f"{task} gives no number a document, so nothing is told of it." for task in unscored]
    if passages == 0:
        told.append(
            "There are no neutral passages (neutral.zh.jsonl, neutral.en.jsonl), so perplexity was not measured."
        )
    return told
