"""The ``effects`` command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table


def effects(
    model: Annotated[str, typer.Option(help="Name or path of a model, or 'organism' for the bundled one.")],
    masks: Annotated[Path, typer.Option(help="Folder of mask files, one mask file, organism, or organism/truth.")],
    out: Annotated[
        Path, typer.Option(help="Folder for effects.json and the runs; an interrupted sweep goes on there.")
    ],
    tasks: Annotated[str, typer.Option(help="Tasks of lm-eval, with commas between.")] = "cvoice_zh",
    controls: Annotated[
        int, typer.Option(min=0, help="Matched random masks a mask; 19 or more, to claim anything.")
    ] = 20,
    stats: Annotated[
        Path | None, typer.Option(help="Statistics to match firing rates by; default: beside the masks.")
    ] = None,
    mode: Annotated[str, typer.Option(help="zero, mean, scale or add.")] = "zero",
    strength: Annotated[float | None, typer.Option(help="For scale and add.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Of the evaluation.")] = 8,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; the GPU if there is one.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    limit: Annotated[int | None, typer.Option(min=1, help="Documents a task.")] = None,
    num_fewshot: Annotated[int | None, typer.Option(min=0, help="Examples before the question.")] = None,
    apply_chat_template: Annotated[bool, typer.Option("--apply-chat-template", help="For chat models.")] = False,
    data_dir: Annotated[Path | None, typer.Option(help="Outside items in place of the bundled ones.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch or commit of the model.")] = None,
    seed: Annotated[int, typer.Option(help="Of controls, intervals and tests.")] = 0,
) -> None:
    """Measure what masks change: masks x values, against random masks that match them.

    Loads the model once, runs it without a mask, with every mask and with its random masks, and compares item by item:
    intervals, sign-flip tests corrected by Holm, and the rank among the random masks. An effect is claimed only where
    both agree.

    Example:  cvoice effects --model organism --masks masks --tasks cvoice_zh --controls 20 --out effects
    """
    from compare.effects_run import measure_effects
    from compare.runs import Settings

    settings = Settings(
        model=model,
        tasks=tuple(task.strip() for task in tasks.split(",") if task.strip()),
        mode=mode,
        strength=strength,
        batch_size=batch_size,
        dtype=dtype,
        limit=limit,
        chat=apply_chat_template,
        shots=num_fewshot,
        data_dir=None if data_dir is None else str(data_dir),
        revision=revision,
    )
    found = measure_effects(settings, masks, out, controls=controls, stats=stats, seed=seed, device=device)
    show_effects(found, out)


def show_effects(found: Mapping[str, Any], out: Path) -> None:
    """Prints the matrix: effect on `acc` of each mask on each value, a star where it is claimed."""
    console = Console()
    cells: Sequence[Mapping[str, Any]] = found["cells"]
    for family in dict.fromkeys(cell["family"] for cell in cells):
        of_family = [cell for cell in cells if cell["family"] == family]
        values = list(dict.fromkeys(cell["value"] for cell in of_family))
        table = Table("mask", *(value[:7] for value in values), title=f"effect on acc, {family} (* claimed)")
        for mask in dict.fromkeys(cell["mask"] for cell in of_family):
            row = {cell["value"]: cell for cell in of_family if cell["mask"] == mask}
            shown = [f"{row[v]['acc']['difference']:+.2f}{'*' if row[v]['claimed'] else ''}" for v in values]
            table.add_row(mask, *shown)
        console.width = max(console.width, 12 + 11 * (len(values) + 1))
        console.print(table)
    for remark in found["remarks"]:
        print(f"note: {remark}")
    print(f"all numbers: {out / 'effects.json'}; a page to show: {out / 'report.html'}")


def report(
    effects_folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of `cvoice effects`.")],
) -> None:
    """Make the page of an effects folder anew, from its effects.json.

    Example:  cvoice report effects
    """
    from compare.page.build import read_effects, write_page

    print(write_page(read_effects(effects_folder), effects_folder / "report.html"))
