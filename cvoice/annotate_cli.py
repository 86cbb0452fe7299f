"""``cvoice annotate``: blind sheets for people, and what blind readers have said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from cvoice_foundation.errors import CVoiceError

annotate = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


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


@annotate.command()
def score(
    sheets: Annotated[list[Path], typer.Argument(metavar="SHEET...", help="Filled sheets; copies are annotators.")],
    key: Annotated[Path, typer.Option(help="The key file that was written with the sheets.")],
    output: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """Compute agreement of filled sheets: with the key, and of annotators with one another.

    The act is 1 or 2; the value is a key or its Chinese name, with a second guess after a comma. Rows that cannot be
    read are listed, and left out.

    Example:  cvoice annotate score sheets/sheet_1.en.csv sheets/sheet_2.en.csv --key sheets/key.en.csv
    """
    from cvoice_tasks.annotate_score import score_sheets, table

    if output not in ("table", "json"):
        raise CVoiceError(f"--format is {output!r}, and should be table or json")
    found = score_sheets(key, sheets)
    print(json.dumps(found.as_dict(), ensure_ascii=False, indent=1) if output == "json" else table(found))


@annotate.command()
def checks(
    folder: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="Folder with checks.*.jsonl; bundled.")] = None,
    output: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """Show how the blind readers of a set of items agreed with its writers and with one another.

    Example:  cvoice annotate checks --format json
    """
    from cvoice_tasks.checks import agreements, read_checks, table

    if output not in ("table", "json"):
        raise CVoiceError(f"--format is {output!r}, and should be table or json")
    found = agreements(read_checks(folder))
    print(json.dumps([one.as_dict() for one in found], indent=1) if output == "json" else table(found))
