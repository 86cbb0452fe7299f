"""The ``check``, ``baseline`` and ``leaderboard`` commands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cvoice_foundation.errors import CVoiceError
from cvoice_foundation.files import write_whole


def check(
    baseline: Annotated[Path, typer.Option(help="Results folder or file of lm-eval, or a baseline file.")],
    candidate: Annotated[Path, typer.Option(help="Results folder or file of lm-eval, run with --log_samples.")],
    max_drop: Annotated[float, typer.Option(help="The drop in acc that is put up with.")] = 0.03,
    alpha: Annotated[float, typer.Option(help="Family-wise error over all values.")] = 0.05,
    strict: Annotated[bool, typer.Option("--strict", help="Pass only if larger drops are excluded.")] = False,
    recovery: Annotated[
        float | None, typer.Option(help="Share of the baseline's acc to keep overall, e.g. 0.97, masked over base.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write a summary for a pull request there.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML there.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all numbers there.")] = None,
    seed: Annotated[int, typer.Option(help="Of the random draws.")] = 0,
) -> None:
    """Hold a candidate against a baseline, value by value: exit 0 held, 1 regressed, 2 cannot be compared.

    Both must have answered the same items in the same settings. A value has regressed if its drop is larger than
    --max-drop and significant (paired, clustered by twin pair, Holm over all values). On GitHub the summary and
    annotations are written by themselves.

    Example:  cvoice check --baseline value-baseline.json --candidate results --markdown check.md
    """
    from compare import check_reports
    from compare.baseline import load_scores
    from compare.regression import Gate
    from compare.regression import check as compare

    gate = Gate(max_drop=max_drop, alpha=alpha, strict=strict, recovery=recovery, seed=seed)
    outcome = compare(load_scores(baseline), load_scores(candidate), gate)
    summary = check_reports.markdown(outcome)
    for path, content in (
        (markdown, summary),
        (junit, check_reports.junit(outcome)),
        (json_file, check_reports.as_json(outcome)),
    ):
        if path is not None:
            write_whole(path, content)
    _append_step_summary(summary)
    console = Console()
    # Rich takes 80 columns where it is not a terminal, and cuts numbers off.
    console.width = max(console.width, 100)
    console.print(check_reports.table(outcome))
    for remark in outcome.remarks:
        print(f"note: {remark}")
    if os.environ.get("GITHUB_ACTIONS") == "true":
        print(check_reports.github_annotations(outcome), end="")
    print(check_reports.headline(outcome))
    raise typer.Exit(0 if outcome.passed else 1)


def baseline(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="Results folder or file of one model.")],
    out: Annotated[Path, typer.Option(help="The file, e.g. value-baseline.json.")],
) -> None:
    """Write a small baseline file that lives in a repository and that `cvoice check --baseline` takes.

    Example:  cvoice baseline results --out value-baseline.json
    """
    from compare.baseline import load_scores, write_baseline

    scores = load_scores(results)
    write_baseline(scores, out)
    documents = sum(len(task.numbers["acc"]) for task in scores.tasks.values())
    print(f"{out}: {scores.model.name}, {len(scores.tasks)} tasks, {documents} documents")


def leaderboard(
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="Results folders or files of lm-eval.")],
    format_name: Annotated[str, typer.Option("--format", help="md, csv, json or html.")] = "md",
    metric: Annotated[str, typer.Option(help="acc, robust_acc or twin_acc.")] = "acc",
    alpha: Annotated[float, typer.Option(help="One minus the level of the intervals and ranks.")] = 0.05,
    out: Annotated[Path | None, typer.Option(help="Write there in place of the screen.")] = None,
    seed: Annotated[int, typer.Option(help="Of the random draws.")] = 0,
) -> None:
    """Rank models over values, languages and levels, with the uncertainty of every score and rank.

    Models are ranked together only if they answered the same items in the same settings; others are shown and marked.

    Example:  cvoice leaderboard results --format html --out leaderboard.html
    """
    from compare.leaderboard import leaderboards
    from compare.leaderboard_formats import FORMATS

    if format_name not in FORMATS:
        raise CVoiceError(f"--format is {format_name!r}; there are {', '.join(FORMATS)}")
    text = FORMATS[format_name](leaderboards(results, metric=metric, alpha=alpha, seed=seed))
    if out is None:
        print(text, end="")
    else:
        write_whole(out, text)


def _append_step_summary(summary: str) -> None:
    """Adds to the file that GitHub shows on a run's page, where there is one."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(summary)
    except OSError as error:
        raise CVoiceError(f"{path}: GITHUB_STEP_SUMMARY cannot be written: {error.strerror or error}") from None
