"""The ``cvoice`` command: one thin function a subcommand, each calling one function below.

torch and transformers take seconds to import, so each subcommand imports what it runs when it runs.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from cvoice_foundation.command_line import run
from cvoice_tasks.yaml import FOLDER
from locate.command import (
    BarRate,
    FilterRate,
    LanguageBar,
    MaxValues,
    MethodName,
    Out,
    Seed,
    SignName,
    TopRate,
    locate,
    select_options,
    show_masks,
)

app = typer.Typer(
    name="cvoice",
    help="Which neurons of a language model carry a value, and what happens when they are switched off.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """The program ``cvoice``."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    run(app, "cvoice")


app.command()(locate)


@app.command()
def select(
    stats: Annotated[list[str], typer.Argument(metavar="STATS...", help="Statistics files, or NAME=counts.pt.")],
    out: Out,
    method: MethodName = "vape",
    denominator: Annotated[str, typer.Option(help="What counts are divided by: tokens or questions.")] = "tokens",
    top_rate: TopRate = 0.01,
    filter_rate: FilterRate = 0.95,
    bar_rate: BarRate = 0.95,
    sign: SignName = "positive",
    max_values: MaxValues = None,
    language_bar: LanguageBar = None,
    seed: Seed = 0,
) -> None:
    """Select masks from stored statistics, without the model.

    STATS are files that `cvoice locate` wrote (shards, or several corpora, are added up), or NAME=counts.pt for each
    class of the public value-neuron release's count files. Writes one NAME.jsonl a class.

    Example:  cvoice select masks/statistics.safetensors --out stricter --top-rate 0.005
    """
    options = select_options(
        method,
        top_rate,
        filter_rate,
        bar_rate,
        denominator=denominator,
        sign=sign,
        max_values=max_values,
        language_bar=language_bar,
        seed=seed,
    )
    from locate.run import select_masks

    show_masks(select_masks(stats, out, options), out)


@app.command()
def controls(
    mask: Annotated[Path, typer.Argument(metavar="MASK", help="Mask file to match.")],
    out: Out,
    stats: Annotated[
        Path | None, typer.Option(help="Statistics of its model; by default statistics.safetensors beside the mask.")
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="How many random masks.")] = 20,
    seed: Seed = 0,
) -> None:
    """Draw random masks that match a mask: what it is to be compared with.

    Each has as many neurons in every layer as MASK and, where there are statistics, of the same firing-rate deciles;
    none of the neurons of MASK. Writes VALUE-random-001.jsonl and so on.

    Example:  cvoice controls masks/integrity.jsonl --draws 20 --out controls
    """
    from locate.controls import write_controls

    masks, matched = write_controls(mask, out, stats=stats, draws=draws, seed=seed)
    show_masks(masks, out)
    print(f"matched by {matched}")


@app.command("tasks-dir")
def tasks_dir() -> None:
    """Print the folder of the task YAMLs.

    Example:  lm_eval ls tasks --include_path $(cvoice tasks-dir)
    """
    print(FOLDER)


@app.command("organism-dir")
def organism_dir() -> None:
    """Print the folder of the bundled model.

    Example:  lm_eval --tasks cvoice_zh --model hf --model_args pretrained=$(cvoice organism-dir)
    """
    from intervention.bundled import organism_folder

    print(organism_folder())


@app.command(
    "lm-eval", context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def lm_eval(context: typer.Context) -> None:
    """Run lm-eval's own command line with our model class and tasks, where the start-up hook cannot.

    Example:  cvoice lm-eval --tasks cvoice_zh --model neuron_masked_hf --model_args mask=organism/patriotism
    """
    from cvoice.lm_eval_plugin import run_lm_eval

    run_lm_eval(context.args)


if __name__ == "__main__":
    main()
