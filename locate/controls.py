"""Random masks that match a located one in everything but which neurons they hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from cvoice_foundation.errors import CVoiceError
from cvoice_foundation.files import output_folder
from intervention.architectures import Expert
from intervention.mask import MaskedLayer, NeuronMask
from locate.counts import Site
from locate.statistics import NeuronStatistics
from locate.statistics_file import load_statistics

DECILES = 10
_Place = tuple[int, Expert]


def matched_random_masks(
    mask: NeuronMask,
    draws: int,
    seed: int = 0,
    statistics: NeuronStatistics | None = None,
    *,
    widths: dict[_Place, int] | None = None,
) -> list[NeuronMask]:
    """Draws random masks with as many neurons in each layer as a mask has.

    With statistics each neuron is answered by one of the same decile of firing rates, over all tokens of the corpus,
    in its own MLP, so that a control is as busy as the mask. The mask's own neurons are never drawn; where a decile
    has too few others, the nearest deciles help out.

    Args:
        mask: The mask to match.
        draws: How many masks.
        seed: Of the draws; draw i is the same however many are drawn.
        statistics: Of the mask's model; without them neurons match by layer alone.
        widths: Without statistics: number of neurons by (layer, expert), where the mask's header does not tell.

    Returns:
        Masks named ``VALUE-random-001`` and so on, whose headers tell what they match and how.

    Raises:
        CVoiceError: The mask is empty, does not fit the statistics, or holds too much of an MLP to leave as much.
    """
    if not mask.layers:
        raise CVoiceError(f"mask {mask.value!r} is empty: there is nothing to match")
    deciles = None if statistics is None else _deciles(statistics)
    if statistics is not None:
        _check_fits(mask, statistics.sites)
    means = None if statistics is None else _by_site(statistics.sites, statistics.means())
    controls = []
    for draw in range(draws):
        generator = torch.Generator().manual_seed(_seed(mask, seed, draw))
        lines = []
        for line in mask.layers:
            place = (line.layer, line.expert)
            if deciles is None:
                # The header's width is that of the widest kind of MLP: enough for dense models alone.
                width = (widths or {}).get(place) or (None if line.expert is not None else mask.model.num_neurons)
                if width is None:
                    raise CVoiceError(
                        f"mask {mask.value!r} does not say how many neurons layer {line.layer} has; give --stats FILE"
                    )
                of_site = torch.zeros(width, dtype=torch.long)
            else:
                of_site = deciles[place]
            chosen = _draw(line, of_site, generator, mask.value)
            of_line = None
            if means is not None and means[place] is not None and line.means is not None:
                of_line = tuple(means[place][list(chosen)].tolist())  # type: ignore[index]
            lines.append(MaskedLayer(line.layer, chosen, of_line, line.expert))
        matched = ["layer"] if deciles is None else ["layer", "firing-rate decile"]
        method = {"name": "matched-random", "of": mask.sha256, "matched": matched, "seed": seed, "draw": draw + 1}
        controls.append(
            replace(mask, value=f"{mask.value}-random-{draw + 1:03d}", layers=tuple(lines), method=method, extra={})
        )
    return controls


def write_controls(
    path: Path, out: Path, *, stats: Path | None = None, draws: int = 20, seed: int = 0
) -> tuple[list[NeuronMask], str]:
    """Draws controls for a mask file and writes them.

    Args:
        path: The mask file.
        out: Folder for ``VALUE-random-001.jsonl`` and so on.
        stats: Statistics file; if None, ``statistics.safetensors`` beside the mask, if there is one.
        draws: How many.
        seed: Of the draws.

    Returns:
        The masks, and in words what they were matched by.

    Raises:
        CVoiceError: A file is not right, or the mask cannot be matched; nothing is then written.
    """
    mask = NeuronMask.load(path)
    beside = path.parent / "statistics.safetensors"
    source = stats or (beside if beside.is_file() else None)
    statistics = None if source is None else load_statistics(source)
    masks = matched_random_masks(mask, draws, seed, statistics)
    output_folder(out)
    for control in masks:
        control.save(out / f"{control.value}.jsonl")
    if source is None:
        return (
            masks,
            "layer alone: there are no statistics beside the mask; give --stats FILE to match firing rates too",
        )
    return masks, f"layer and firing-rate decile, by {source}"


def _seed(mask: NeuronMask, seed: int, draw: int) -> int:
    """Another stream for each mask and draw."""
    return (int(mask.sha256[:12], 16) + 1_000_003 * seed + 7_919 * draw) % (1 << 63)


def _draw(line: MaskedLayer, deciles: torch.Tensor, generator: torch.Generator, value: str) -> tuple[int, ...]:
    if 2 * len(line.neurons) > len(deciles):
        raise CVoiceError(
            f"mask {value!r} holds {len(line.neurons)} of {len(deciles)} neurons in layer {line.layer}: there are not "
            "as many others for a control"
        )
    free = torch.ones(len(deciles), dtype=torch.bool)
    free[list(line.neurons)] = False
    wanted: defaultdict[int, int] = defaultdict(int)
    for decile in deciles[list(line.neurons)].tolist():
        wanted[decile] += 1
    chosen: list[int] = []
    for decile in sorted(wanted):
        missing = wanted[decile]
        for near in sorted(range(DECILES), key=lambda other: (abs(other - decile), other)):
            places = ((deciles == near) & free).nonzero().flatten()
            taken = places[torch.randperm(len(places), generator=generator)[:missing]]
            free[taken] = False
            chosen += taken.tolist()
            missing -= len(taken)
            if not missing:
                break
    return tuple(sorted(chosen))


def _deciles(statistics: NeuronStatistics) -> dict[_Place, torch.Tensor]:
    """Of each MLP: the decile, 0 to 9, of each neuron's firing rate within it; ties break by index."""
    found = {}
    for place, fired in _by_site(statistics.sites, statistics.fired[0].sum(0, dtype=torch.int64)).items():
        assert fired is not None
        rank = torch.empty(len(fired), dtype=torch.long)
        rank[fired.sort(stable=True).indices] = torch.arange(len(fired))
        found[place] = rank * DECILES // len(fired)
    return found


def _by_site(sites: Sequence[Site], values: torch.Tensor | None) -> dict[_Place, torch.Tensor | None]:
    if values is None:
        return {(site.layer, site.expert): None for site in sites}
    found: dict[_Place, torch.Tensor | None] = {}
    start = 0
    for site in sites:
        found[site.layer, site.expert] = values[start : start + site.width]
        start += site.width
    return found


def _check_fits(mask: NeuronMask, sites: Sequence[Site]) -> None:
    widths = {(site.layer, site.expert): site.width for site in sites}
    for line in mask.layers:
        width = widths.get((line.layer, line.expert))
        if width is None or line.neurons[-1] >= width:
            raise CVoiceError(
                f"mask {mask.value!r} does not fit these statistics: they have "
                f"{'no such MLP' if width is None else f'{width} neurons'} in layer {line.layer}; give its own --stats"
            )
