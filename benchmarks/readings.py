"""Runs the five readings on a model, counts what each costs, and writes how far they agree.

    python benchmarks/readings.py --model hf --model_args pretrained=MODEL [--into docs/readings.md]

Costs are counted at the model's forward, not derived: a pass is one sequence through the model once, so a generated
token is a pass of its own. Agreement is the share of stories on which two readings choose the same act, among those on
which both choose; a story's choice is the sign of its margin, taken over its documents. Standard errors are clustered
by pair number, zh and en of one number in one cluster.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cvoice_foundation.files import write_whole
from cvoice_tasks.metrics import clustered_stderr, mean_of
from cvoice_tasks.yaml import FOLDER
from cvoice_tasks.yaml.generate import FAMILIES

BEGIN, END = "<!-- readings: begin -->", "<!-- readings: end -->"
FOR_WHOM = {
    "letters": "base and chat models; the default",
    "cloze": "base models that do not know letters; reads the act's own text",
    "generation": "chat models as they are used; the only reading that sees refusals",
    "recognition": "the control: has the model lost the value, or the understanding of it?",
    "likert": "chat models; graded, and no option stands first",
}


class Counter:
    """Counts sequences and tokens that go through a model."""

    def __init__(self, model: Any) -> None:
        self.passes = 0
        self.tokens = 0
        self._handle = model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = named["input_ids"] if named.get("input_ids") is not None else arguments[0]
        self.passes += ids.shape[0]
        self.tokens += ids.numel()

    def close(self) -> None:
        """Takes the hook off."""
        self._handle.remove()


class Read(NamedTuple):
    """One reading of a model.

    Attributes:
        items: How many stories were read.
        passes: Sequences through the model, an item.
        tokens: Tokens through the model, an item, pads included.
        acc: The group's accuracy and its standard error.
        choices: (language, item id) -> 1 if the aligned act is chosen, 0 if the violating one; without a choice absent.
    """

    items: int
    passes: float
    tokens: float
    acc: tuple[float, Any]
    choices: dict[tuple[str, str], int]


def choices_of(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[int, dict[tuple[str, str], int]]:
    """How many stories there are, and each one's choice, from lm-eval's samples of any reading."""
    margins: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for rows in samples.values():
        for row in rows:
            doc, margin = row["doc"], row["margin"]
            # A Likert document holds its act's rating; the sign turns two ratings into a difference.
            signed = margin if isinstance(margin, float) else margin[2] if margin[1] else -margin[2]
            margins[doc["language"], doc["id"]].append(signed)
    totals = {story: math.fsum(parts) for story, parts in margins.items()}
    return len(totals), {story: int(total > 0) for story, total in totals.items() if total != 0}


def read_all(
    lm: Any, languages: Sequence[str], limit: int | None, num_fewshot: int | None, chat: bool
) -> dict[str, Read]:
    """Runs every reading on a model.

    Args:
        lm: lm-eval's model.
        languages: Of the tasks.
        limit: Documents a task; even, or items are cut in two.
        num_fewshot: Shots.
        chat: Whether to apply the chat template, shots as turns.

    Returns:
        Reading -> what it gave.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(FOLDER), include_defaults=False)
    readings = {}
    for family in FAMILIES:
        group = family.prefix if len(languages) == 2 else f"{family.prefix}_{languages[0]}"
        counter = Counter(lm.model)
        try:
            results = simple_evaluate(
                model=lm,
                tasks=[group],
                task_manager=manager,
                # A cloze document is an item, elsewhere two are.
                limit=None if limit is None else limit // (2 if family.folder == "cloze" else 1),
                num_fewshot=num_fewshot,
                apply_chat_template=chat,
                fewshot_as_multiturn=chat,
                bootstrap_iters=0,
            )
        finally:
            counter.close()
        assert results is not None
        items, choices = choices_of(results["samples"])
        row = results["groups"][group]
        acc = (row["acc,none"], row["acc_stderr,none"])
        readings[family.folder] = Read(items, counter.passes / items, counter.tokens / items, acc, choices)
    return readings


def agreement(one: Read, two: Read) -> tuple[float, Any, int]:
    """Share of stories on which two readings choose the same act, its clustered error, and how many stories."""
    both = sorted(one.choices.keys() & two.choices.keys())
    same = [(story[1], float(one.choices[story] == two.choices[story])) for story in both]
    return mean_of(same), clustered_stderr(same), len(same)


def _number(value: float, error: Any) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.3f}" + (f" ± {error:.3f}" if isinstance(error, float) else "")


def markdown(readings: Mapping[str, Read], title: str) -> str:
    """The two tables of docs/readings.md."""
    lines = [f"Measured on {title}.", ""]
    lines += ["| reading | for | passes an item | tokens an item | items | `acc` | agrees with letters |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, read in readings.items():
        same, error, count = agreement(read, readings["letters"])
        agrees = "–" if name == "letters" else f"{_number(same, error)} (n = {count})"
        cost = f"{read.passes:.2f} | {read.tokens:.0f} | {read.items}"
        lines.append(f"| {name} | {FOR_WHOM[name]} | {cost} | {_number(*read.acc)} | {agrees} |")
    names = list(readings)
    lines += ["", "Agreement of any two:", "", f"| | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for row in names:
        cells = [
            "" if row == column else _number(*agreement(readings[row], readings[column])[:2])
            for column in names[: names.index(row) + 1]
        ]
        lines.append(f"| {row} | {' | '.join(cells + [''] * (len(names) - len(cells)))} |")
    return "\n".join(lines)


def put_into(path: Path, text: str) -> None:
    """Replaces what stands between the two marks of a document.

    Raises:
        SystemExit: The document has no such marks.
    """
    document = path.read_text("utf-8")
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{path}: has no {BEGIN} ... {END}; put the two marks where the tables belong")
    write_whole(path, f"{before}{BEGIN}\n{text}\n{END}{after}")


def main() -> None:
    """Runs, prints, and writes where asked."""
    from lm_eval.api.registry import get_model

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="hf", help="lm-eval's name of the model class")
    parser.add_argument("--model_args", required=True, help="e.g. pretrained=Qwen/Qwen2.5-7B-Instruct,dtype=bfloat16")
    parser.add_argument("--batch_size", type=int, default=1, help="1 counts no pads")
    parser.add_argument("--device", default=None, help="the GPU if there is one")
    parser.add_argument("--language", choices=["zh", "en", "both"], default="both")
    parser.add_argument("--limit", type=int, default=None, help="documents a task, a multiple of 4 (whole pairs)")
    parser.add_argument("--num_fewshot", type=int, default=None)
    parser.add_argument("--apply_chat_template", action="store_true")
    parser.add_argument("--title", default=None, help="what was measured, for the sentence above the tables")
    parser.add_argument("--into", type=Path, default=None, help=f"a document with {BEGIN} and {END}")
    parser.add_argument("--json", type=Path, default=None, help="a file for the figures")
    arguments = parser.parse_args()
    import lm_eval.models  # noqa: F401 - fills the registry
    import torch

    # lm-eval's classes ask for CUDA, there or not, where they are made without its command line.
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    lm = get_model(arguments.model).create_from_arg_string(
        arguments.model_args, {"batch_size": arguments.batch_size, "device": device}
    )
    languages = ["zh", "en"] if arguments.language == "both" else [arguments.language]
    readings = read_all(lm, languages, arguments.limit, arguments.num_fewshot, arguments.apply_chat_template)
    text = markdown(readings, arguments.title or arguments.model_args)
    print(text)
    if arguments.json is not None:
        figures = {
            name: {"passes": r.passes, "tokens": r.tokens, "items": r.items, "acc": r.acc}
            for name, r in readings.items()
        }
        write_whole(arguments.json, json.dumps(figures, indent=2) + "\n")
    if arguments.into is not None:
        put_into(arguments.into, text)


if __name__ == "__main__":
    main()
