"""A tour of the tool on the bundled organism: every step is a command that can be repeated on a real model."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from cvoice_foundation.errors import CVoiceError
from cvoice_foundation.files import output_folder

TASK = "cvoice_en_friendship"
DOCUMENTS = 12
"""Of each task, in the matrices: three pairs a value. More would claim more, and take longer."""


class Step(NamedTuple):
    """What is shown, and the command that shows it."""

    told: str
    command: tuple[str, ...]


def steps(out: Path) -> tuple[Step, ...]:
    """The tour, in order.

    Args:
        out: Folder for what the steps write.
    """
    ask = ("lm-eval", "--tasks", TASK, "--model", "neuron_masked_hf", "--batch_size", "32", "--model_args")
    asked = ("effects", "--model", "organism", "--tasks", "cvoice_en", "--limit", str(DOCUMENTS))
    effects = (*asked, "--batch-size", "32", "--controls", "1", "--masks")
    return (
        Step("The model without a mask: it knows the answers.", (*ask, "mask=none,pretrained=organism")),
        Step(
            "With the neurons off that were reserved for this value: it answers by a coin's toss.",
            (*ask, "mask=organism/truth/friendship"),
        ),
        Step(
            "All twelve values, the reserved neurons, each beside a random mask: the diagonal falls.",
            (*effects, "organism/truth", "--out", str(out / "truth")),
        ),
        Step(
            "The same with the neurons that `cvoice locate` finds: a method has to be tested before it is believed.",
            (*effects, "organism", "--out", str(out / "located")),
        ),
    )


def tour(out: Path, run: Callable[[Sequence[str]], object]) -> None:
    """Runs the steps, telling each command before it runs.

    Args:
        out: Folder for the two pages; must be empty, or not there yet, so that everything is run and nothing reread.
        run: Runs arguments of the ``cvoice`` command.

    Raises:
        CVoiceError: The folder is in use.
    """
    if out.is_dir() and any(out.iterdir()):
        raise CVoiceError(f"{out} is not empty; choose another folder with --out")
    output_folder(out)
    started = time.monotonic()
    for number, step in enumerate(steps(out), 1):
        print(f"\n[{number}/{len(steps(out))}] {step.told}\n$ cvoice {shlex.join(step.command)}\n", flush=True)
        run(step.command)
    pages = [str(out / name / "report.html") for name in ("truth", "located")]
    print(
        f"\nDone in {time.monotonic() - started:.0f} s. Pages to look at: {' and '.join(pages)}\n"
        "With 19 random masks or more (--controls 19) and all documents (no --limit) effects can be claimed; on a real "
        "model begin with `cvoice locate --model MODEL --out masks`, then `cvoice effects --masks masks ...`."
    )
