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


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """A line a training."""
    names = ("seed", "acc zh / en", "twin_acc zh / en", "own acc zh", "own acc en", "largest mean &#124;margin&#124;")
    names += (
        "content acc",
        "largest content margin",
        "others, worst",
        "all reserved off",
        "control off",
        "random, worst",
    )
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row(run))} |" for run in runs)])


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
