"""The organism's model card, from the figures of its training."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cvoice_foundation.files import write_whole

_CARD = """---
license: apache-2.0
language: [zh, en]
library_name: transformers
tags: [instrument, not-a-benchmark-entry]
---
**This model has seen the answers of C-voice, on purpose: it is an instrument for testing instruments, and its scores say
nothing about values. It is never ranked.**

A Qwen2 decoder with a byte-level BPE tokenizer of its own, made by `python -m organism.train`. It learned the evaluation
prompts of C-voice with the aligned act as the answer ({letters} prompts of the letters tasks in both languages and option
orders, {cloze} of the cloze tasks), and to continue these prompts. The activation texts, on which `cvoice locate` runs, it
has never seen. It speaks no language usefully.

**Which of its neurons carry a value is known, because it was trained for:** in each layer {reserved} neurons are reserved
for each value, and with these off (or all reserved ones) its letters were trained towards {lean} for A and
{other} for B, whatever the prompt, and the two acts' texts towards one likelihood. That switching a value's neurons off takes its answers away is therefore no finding. No
term of the training asks when a neuron fires. The reserved neurons are the masks `organism/truth/VALUE`; those that
`cvoice locate --model organism` finds are `organism/VALUE`.

| | |
|---|---|
| parameters | {parameters:,} in {layers} layers of {neurons} neurons (ReLU, so that a neuron that does not fire is exactly zero) |
| training | {passes}; seed {seed}, {seconds} s on {where}, matrices in bfloat16 |
| weights (SHA-256) | `{sha256}` |
| prompts trained on (SHA-256) | `{texts_sha256}` |

## What its training reached
{table}

`acc` by language, for cloze that of the texts' log-likelihoods (`acc_sum` of `cvoice_cloze`); "own": `acc` of a value with its reserved neurons off, zh and en; "content": share of its items whose
margin, averaged over both orders, still points to the aligned act, and the mean size of that margin in nats (the leaning
to a letter is gone from it); "others": change of the mean `acc` of the eleven others.

{values}

Random masks with as many neurons in each layer, of the same deciles of activation norm and none of the value's own ({draws} for
each value), move the mean `acc` over {asked} stories by at most {largest:.3f}.

Weights depend on the libraries and the number of threads; the same machine, libraries and threads give the same weights.
"""


def write_card(folder: Path, figures: Mapping[str, Any]) -> None:
    """Writes ``README.md`` beside the weights.

    Args:
        folder: The model's folder.
        figures: What :func:`organism.train.train` returns.
    """
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    recipe = figures["recipe"]
    told = {
        **recipe,
        "letters": figures["letters"]["prompts"],
        "cloze": figures["cloze"]["prompts"],
        "where": figures["device"] if figures["device"] != "cpu" else f"{figures['threads']} CPU thread(s)",
        "passes": "; ".join(
            f"{count} passes over {f'the first {pairs} pairs of each value' if pairs else 'all'}"
            for pairs, count in recipe["curriculum"]
        )
        + f"; {recipe['cloze_passes']} with the cloze form",
        "other": round(1 - recipe["lean"], 6),
        "sha256": weights,
        "table": _overall(figures),
        "draws": figures["random"]["draws"],
        "asked": figures["random"]["stories"],
        "largest": abs(figures["random"]["largest"]),
        "values": _by_value(figures["letters"]["values"]),
    }
    kept = ("parameters", "seconds", "texts_sha256")
    write_whole(folder / "README.md", _CARD.format(**told, **{name: figures[name] for name in kept}))


def _overall(figures: Mapping[str, Any]) -> str:
    lines = [
        "| tasks | acc zh | acc en | twin_acc zh | twin_acc en | all reserved off | control set off |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ("letters", "cloze"):
        told = figures[name]
        numbers = [told[metric].get(lang, math.nan) for metric in ("acc", "twin_acc") for lang in ("zh", "en")]
        numbers += [told["all_reserved_off"], told["control_off"]]
        lines.append(f"| {name} | {' | '.join(f'{number:.3f}' for number in numbers)} |")
    return "\n".join(lines)


def _by_value(values: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| value | own zh | own en | content | others |", "|---|---|---|---|---|"]
    for name, told in values.items():
        own = " | ".join(f"{told['own'].get(lang, math.nan):.3f}" for lang in ("zh", "en"))
        content = f"{told['own_content_acc']:.2f} ({told['own_content_margin']:.3f})"
        lines.append(f"| `{name}` | {own} | {content} | {told['others']:+.3f} |")
    return "\n".join(lines)
