"""The ``locate`` command, as ``cvoice locate`` and as ``python -m locate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from intervention.mask import NeuronMask

TopRate = Annotated[float, typer.Option(help="Share of all neurons to keep: those of lowest entropy.")]
FilterRate = Annotated[float, typer.Option(help="Quantile of all firing rates that a neuron must exceed somewhere.")]
BarRate = Annotated[float, typer.Option(help="Quantile of all firing rates above which a neuron belongs to a value.")]
Out = Annotated[Path, typer.Option(help="Folder for the results; made if it is not there.")]


def locate(
    model: Annotated[str, typer.Option(help="Name or path of a model, or 'organism' for the bundled one.")],
    out: Out,
    data: Annotated[list[Path] | None, typer.Option(help="Items file; may be given several times.")] = None,
    language: Annotated[str, typer.Option(help="zh, en or both (pooled).")] = "both",
    method: Annotated[str, typer.Option(help="How neurons are selected: vape.")] = "vape",
    top_rate: TopRate = 0.01,
    filter_rate: FilterRate = 0.95,
    bar_rate: BarRate = 0.95,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts a batch.")] = 8,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; the GPU if there is one.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Branch or commit of the model.")] = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run the model's own code.")] = False,
) -> None:
    """Find the neurons that carry each value: one mask a value.

    Runs the model once over the bundled activation items (or --data) and selects neurons by the entropy of their
    firing rates over the values (VAPE). Writes VALUE.jsonl, statistics.safetensors and locate.json.

    Example:  cvoice locate --model organism --out masks
    """
    # torch and transformers take seconds to import, and `--help` needs neither.
    from locate.run import locate_masks
    from locate.select import VapeOptions

    if method != "vape":
        raise typer.BadParameter(f"{method!r} is not known; there is: vape", param_hint="'--method'")
    masks = locate_masks(
        model,
        out,
        data=data or (),
        language=cast(Any, language),  # checked where it is used
        options=VapeOptions(top_rate=top_rate, filter_rate=filter_rate, bar_rate=bar_rate),
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    show_masks(masks, out)


def show_masks(masks: Sequence[NeuronMask], out: Path) -> None:
    """Prints what was selected, a line a mask, and where it lies."""
    table = Table("mask", "neurons", "in layers", "sha256", title=f"masks in {out}")
    for mask in masks:
        indices = [layer.layer for layer in mask.layers]
        layers = f"{len(indices)} ({indices[0]}-{indices[-1]})" if indices else "-"
        table.add_row(f"{mask.value}.jsonl", str(mask.num_masked), layers, mask.sha256[:12])
    Console().print(table)
