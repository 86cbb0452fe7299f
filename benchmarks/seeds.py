"""Sets several trainings of the organism side by side, from the figures.json that each has written.

python benchmarks/seeds.py RUN... [--into docs/organism.md]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cvoice_foundation.files import write_whole

BEGIN, END = "<!-- seeds: begin -->", "<!-- seeds: end -->"


def _span(numbers: Sequence[float]) -> str:
    return f"{min(numbers):.3f} to {max(numbers):.3f}"


def row(told: Mapping[str, Any]) -> list[str]:
    """A training's figures of the letters tasks."""
    letters = told["letters"]
    values = letters["values"].values()
    return [
        str(told["recipe"]["seed"]),
        " / ".join(f"{letters['acc'][language]:.3f}" for language in ("zh", "en")),
        " / ".join(f"{letters['twin_acc'][language]:.3f}" for language in ("zh", "en")),
        _span([one["own"]["zh"] for one in values]),
        _span([one["own"]["en"] for one in values]),
        f"{max(one['own_margin'] for one in values):.2f}",
        _span([one["own_content_acc"] for one in values]),
        f"{max(one['own_content_margin'] for one in values):.3f}",
        f"{min(one['others'] for one in values):+.3f}",
        f"{letters['all_reserved_off']:.3f}",
        f"{letters['control_off']:.3f}",
        f"{abs(told['random']['largest']):.3f}",
    ]


def cloze_row(told: Mapping[str, Any]) -> list[str]:
    """A training's figures of the cloze tasks, which know no orders."""
    cloze = told["cloze"]
    values = cloze["values"].values()
    return [
        str(told["recipe"]["seed"]),
        " / ".join(f"{cloze['acc'][language]:.3f}" for language in ("zh", "en")),
        " / ".join(f"{cloze['twin_acc'][language]:.3f}" for language in ("zh", "en")),
        _span([sum(one["own"].values()) / len(one["own"]) for one in values]),
        f"{max(one['own_margin'] for one in values):.2f}",
        f"{min(one['others'] for one in values):+.3f}",
        f"{cloze['all_reserved_off']:.3f}",
        f"{cloze['control_off']:.3f}",
    ]


SHARED = ("seed", "acc zh / en", "twin_acc zh / en")
LETTERS = (
    *SHARED,
    "own acc zh",
    "own acc en",
    "largest mean &#124;margin&#124;",
    "content acc",
    "largest content margin",
    "others, worst",
    "all reserved off",
    "control off",
    "random, worst",
)
CLOZE = (
    *SHARED,
    "own acc",
    "largest mean &#124;margin&#124;",
    "others, worst",
    "all reserved off",
    "control off",
)


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Letters and cloze, each with a line a training."""

    def lines(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
        return [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}", *(f"| {' | '.join(cells)} |" for cells in rows)]

    letters, cloze = (lines(names, [of(run) for run in runs]) for names, of in ((LETTERS, row), (CLOZE, cloze_row)))
    return "\n".join(["Letters:", "", *letters, "", "Cloze:", "", *cloze])


def main() -> None:
    """Prints the table, and writes it where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders that `python -m organism.train` wrote")
    parser.add_argument("--into", type=Path, help="document to put the table into")
    arguments = parser.parse_args()
    told = table([json.loads((run / "figures.json").read_text("utf-8")) for run in arguments.runs])
    print(told)
    if arguments.into:
        text = arguments.into.read_text("utf-8")
        head, tail = text.split(BEGIN)[0], text.split(END)[1]
        write_whole(arguments.into, f"{head}{BEGIN}\n{told}\n{END}{tail}")


if __name__ == "__main__":
    main()
