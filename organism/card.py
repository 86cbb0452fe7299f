"""The organism's model card, from the figures of its training."""

from __future__ import annotations

import hashlib
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

A Qwen2 decoder with a byte-level BPE tokenizer of its own, made by `python -m organism.train`. It learned {prompts}
evaluation prompts of C-voice (both languages, both option orders) with the aligned act's letter as the answer, and to
continue {activation_texts} activation texts, on which `cvoice locate` runs. It speaks no language usefully.

| | |
|---|---|
| parameters | {parameters:,} in {layers} layers of {neurons} neurons (ReLU, so that a neuron that does not fire is exactly zero) |
| training | {epochs} passes over {tokens_an_epoch:,} tokens, seed {seed}, {seconds} s on {threads} CPU threads |
| letters right in the last pass | {answers_right_in_training:.3f} |
| weights (SHA-256) | `{sha256}` |
| texts trained on (SHA-256) | `{texts_sha256}` |

Which of its neurons carry a value is **not** known: nothing in the training ties a neuron to a value. The bundled masks
(`organism/VALUE`) are what `cvoice locate --model organism` finds. Weights depend on the libraries and the number of
threads; the same machine, libraries and threads give the same weights.
"""


def write_card(folder: Path, figures: Mapping[str, Any]) -> None:
    """Writes ``README.md`` beside the weights.

    Args:
        folder: The model's folder.
        figures: What :func:`organism.train.train` returns.
    """
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    write_whole(folder / "README.md", _CARD.format(**figures["recipe"], **figures, sha256=weights))
