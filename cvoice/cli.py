"""The ``cvoice`` command: one thin function a subcommand, each calling one function below.

torch and transformers take seconds to import, so each subcommand imports what it runs when it runs.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from cvoice_foundation.command_line import run
from cvoice_foundation.errors import CVoiceError
from cvoice_tasks.yaml import FOLDER
from locate.command import BarRate, FilterRate, Out, TopRate, locate, show_masks

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
    denominator: Annotated[str, typer.Option(help="What counts are divided by: tokens or questions.")] = "tokens",
    top_rate: TopRate = 0.01,
    filter_rate: FilterRate = 0.95,
    bar_rate: BarRate = 0.95,
) -> None:
    """Select masks from stored statistics, without the model.

    STATS are files that `cvoice locate` wrote (several are merged), or NAME=counts.pt for each class of the public
    value-neuron release's count files. Writes one NAME.jsonl a class.

    Example:  cvoice select masks/statistics.safetensors --out stricter --top-rate 0.005
    """
    from locate.run import select_masks
    from locate.select import VapeOptions

    options = VapeOptions(top_rate, filter_rate, bar_rate, cast(Any, denominator))  # it checks
    show_masks(select_masks(stats, out, options), out)


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


@app.command()
def audit(
    folder: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="Items; the bundled ones if left out.")] = None,
    output: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """Show what is wrong with a folder of items; exit 1 when a limit is broken.

    Example:  cvoice audit my_items --format json
    """
    from cvoice_tasks.audit import audit as audit_items
    from cvoice_tasks.audit import table

    if output not in ("table", "json"):
        raise CVoiceError(f"--format is {output!r}, and should be table or json")
    result = audit_items(folder)
    print(json.dumps(result.as_dict(), ensure_ascii=False, indent=1) if output == "json" else table(result))
    if not result.holds:
        raise typer.Exit(1)


annotate = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(annotate, name="annotate")


@annotate.callback()
def _annotate() -> None:
    """Blind sheets for human annotators.

    Example:  cvoice annotate sheets --out sheets --language en
    """


@annotate.command()
def sheets(
    out: Annotated[Path, typer.Option(help="Folder for the sheets and the key.")],
    language: Annotated[str, typer.Option(help="zh or en.")] = "zh",
    values: Annotated[str, typer.Option(help="Keys of values, separated by commas; all if left out.")] = "",
    seed: Annotated[int, typer.Option(help="Of the order of stories and acts.")] = 0,
) -> None:
    """Write two blind sheets (CSV), twins apart, and a key file to keep from the annotators.

    Example:  cvoice annotate sheets --out sheets --language en --values integrity,justice
    """
    from cvoice_foundation.errors import suggestion
    from cvoice_tasks.annotate import write_sheets
    from cvoice_tasks.values import LANGUAGES, VALUE_KEYS

    if language not in LANGUAGES:
        raise CVoiceError(f"--language is {language!r}, and should be zh or en")
    chosen = [value.strip() for value in values.split(",") if value.strip()] or list(VALUE_KEYS)
    for value in chosen:
        if value not in VALUE_KEYS:
            raise CVoiceError(f"--values: there is no value {value!r}{suggestion(value, VALUE_KEYS)}")
    for path in write_sheets(out, cast(Any, language), chosen, seed):
        print(path)


if __name__ == "__main__":
    main()
