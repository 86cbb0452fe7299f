"""The ``cvoice`` command: one thin function a subcommand, each calling one function below.

torch and transformers take seconds to import, so each subcommand imports what it runs when it runs.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from compare.command import baseline, check, leaderboard
from compare.effects_command import effects, report
from cvoice.annotate_cli import annotate
from cvoice_foundation.command_line import run
from cvoice_foundation.errors import CVoiceError
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
app.command()(effects)
app.command()(report)


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


@app.command("import-masks")
def import_masks(
    file: Annotated[Path, typer.Argument(metavar="FILE.pth", help="A torch.save of List[class][layer] of indices.")],
    names: Annotated[str, typer.Option(help="Names of its classes, in its order, with commas between.")],
    model: Annotated[str, typer.Option(help="The model that the masks are of.")],
    out: Out,
) -> None:
    """Turn a LAPE-style mask file into one NAME.jsonl a class; the model need not be at hand.

    Example:  cvoice import-masks opt-6.7b.pth --names en,zh,fr,es,vi,id --model facebook/opt-6.7b --out masks
    """
    from intervention.mask_formats import import_masks as convert

    show_masks(convert(file, [name.strip() for name in names.split(",")], model, out), out)


@app.command("export-masks")
def export_masks(
    masks: Annotated[list[Path], typer.Argument(metavar="MASK...", help="Mask files of one model, a class each.")],
    out: Annotated[Path, typer.Option(help="The .pth file.")],
) -> None:
    """Write masks as one LAPE-style .pth file, for other people's tools.

    Example:  cvoice export-masks masks/integrity.jsonl masks/freedom.jsonl --out masks.pth
    """
    from intervention.mask import NeuronMask
    from intervention.mask_formats import export_masks as convert

    loaded = [NeuronMask.load(path) for path in masks]
    convert(loaded, out)
    print(f"{out}: {', '.join(mask.value for mask in loaded)}")


@app.command()
def export(
    model: Annotated[str, typer.Option(help="Name or folder of a model, or 'organism' for the bundled one.")],
    mask: Annotated[str, typer.Option(help="Mask file or bundled name, several joined by +.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint; must not be there yet, or be empty.")],
    mode: Annotated[
        str, typer.Option(help="zero or scale; mean and add where the down projection has a bias.")
    ] = "zero",
    strength: Annotated[float | None, typer.Option(help="For scale and add.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch or commit of the model.")] = None,
) -> None:
    """Write a masked checkpoint that any engine loads as any other: hf, vLLM, SGLang.

    Copies the checkpoint and rewrites the masked columns of its down projections; config.json and README.md say which
    mask is in it.

    Example:  cvoice export --model organism --mask organism/patriotism --out masked
    """
    from intervention.export import export_masked

    done = export_masked(model, mask, out, mode=mode, strength=strength, revision=revision)
    exact = "the same bits as the mask gives" if done.exact else "rounded to the checkpoint's dtype"
    print(f"{done.folder}: {done.neurons} neurons, {done.tensors} tensors rewritten, {exact}")


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
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pages; must not be there yet, or be empty.")] = Path(
        "cvoice-demo"
    ),
) -> None:
    """Take a tour on the bundled model: offline, under two minutes, every command shown.

    Example:  cvoice demo --out cvoice-demo
    """
    from cvoice.demo import tour

    command = typer.main.get_command(app)
    tour(out, lambda arguments: command.main(list(arguments), prog_name="cvoice", standalone_mode=False))


app.command()(check)
app.command()(baseline)
app.command()(leaderboard)


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


@app.command()
def convert(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Tables: .xlsx, .csv or .jsonl.")],
    out: Annotated[Path, typer.Option(help="Folder for the items file; hand it to tasks as data_dir.")],
    language: Annotated[str, typer.Option(help="Of the texts: zh or en.")] = "zh",
    split: Annotated[str, typer.Option(help="evaluation, activation or fewshot.")] = "evaluation",
    columns: Annotated[
        str, typer.Option(help="Where a table names them otherwise: story=COLUMN,aligned=COLUMN,violating=COLUMN,...")
    ] = "",
    value: Annotated[str | None, typer.Option(help="Of rows that name no value.")] = None,
) -> None:
    """Turn other people's dilemmas into items that every task and `cvoice locate` take.

    Reads workbooks with a sheet or file for each value (columns Context, Action1, Action2, or 决策困境, 选择A, 选择B;
    the first act is the aligned one) and tables with named columns. Rows that cannot be read are listed, with sheet
    and row; the exit code is then 1.

    Example:  cvoice convert dilemmas.xlsx --out my_items
    """
    from typing import get_args

    from cvoice_foundation.errors import suggestion
    from cvoice_tasks.convert import convert as convert_tables
    from cvoice_tasks.items import Split
    from cvoice_tasks.values import LANGUAGES

    for name, given, known in (("language", language, LANGUAGES), ("split", split, get_args(Split))):
        if given not in known:
            raise CVoiceError(f"--{name} is {given!r}{suggestion(given, known)}")
    pairs = [part.partition("=") for part in columns.split(",") if part.strip()]
    if wrong := [name for name, equals, column in pairs if not equals or not column.strip()]:
        raise CVoiceError(f"--columns: {wrong[0]!r} is not FIELD=COLUMN; several have commas between")
    named = {name.strip(): column.strip() for name, _, column in pairs}
    found = convert_tables(files, out, language=cast(Any, language), split=cast(Any, split), columns=named, value=value)
    told = ", ".join(f"{name} {count}" for name, count in found.items.items())
    print(f"{found.path}: {sum(found.items.values())} items ({told})")
    for reason in found.unread:
        print(f"not read: {reason}")
    if found.unread:
        raise typer.Exit(1)


@app.command()
def build(
    base_url: Annotated[str, typer.Option(help="Of an OpenAI-compatible API; the key is OPENAI_API_KEY.")],
    model: Annotated[str, typer.Option(help="The model that writes.")],
    value: Annotated[str, typer.Option(help="Key of a value.")],
    count: Annotated[int, typer.Option(min=1, help="Pairs to write, kept or not.")],
    out: Annotated[Path, typer.Option(help="Folder for items, report and answers; a build goes on there.")],
    split: Annotated[str, typer.Option(help="evaluation or activation (with rationales).")] = "evaluation",
    reader: Annotated[str, typer.Option(help="The model that reads blind; better another than the writer.")] = "",
    temperature: Annotated[float, typer.Option(min=0, help="Of the writer.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 2000,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds until a call is lost.")] = 120.0,
    seed: Seed = 0,
) -> None:
    """Write new twins with a language model: written, read blind, audited, kept or dropped with the reason.

    Every answer is kept in --out, so that an interrupted build goes on and nothing is paid twice. What is kept is a
    data_dir; what is dropped stands in build.VALUE.SPLIT.jsonl.

    Example:  cvoice build --base-url http://localhost:8000/v1 --model NAME --value integrity --count 12 --out my_items
    """
    from cvoice_tasks.build import Order
    from cvoice_tasks.build import build as build_pairs
    from cvoice_tasks.build_calls import Endpoint

    if split not in ("evaluation", "activation"):
        raise CVoiceError(f"--split is {split!r}, and should be evaluation or activation")
    found = build_pairs(
        Order(value, count, cast(Any, split), seed),
        Endpoint(base_url, model, reader, temperature, max_tokens, timeout_s=timeout),
        out,
    )
    for pair, reason in found.dropped.items():
        print(f"dropped: {pair}: {reason}")
    print(f"{out}: {len(found.kept)} kept, {len(found.dropped)} dropped; {found.paid} calls, {found.tokens:,} tokens")


app.add_typer(annotate, name="annotate")


if __name__ == "__main__":
    main()
