"""Perplexity on passages that ask about no value: whether a mask harms the language itself."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from compare.samples import Numbers
from cvoice_foundation.errors import CVoiceError
from cvoice_foundation.files import read_json_lines
from cvoice_tasks.items import items_path
from cvoice_tasks.values import LANGUAGES, Language
from intervention.neuron_mask_lm import NeuronMaskedHFLM

Passages = dict[tuple[str, ...], str]
"""("neutral", language, "", id, "") -> text; keys as those of :data:`compare.samples.Numbers`."""


def passages_path(language: Language, folder: Path | None = None) -> Path:
    """Where neutral passages lie: in a folder of the user's if they are there, else beside the bundled items."""
    name = f"neutral.{language}.jsonl"
    own = None if folder is None else folder / name
    return own if own is not None and own.is_file() else items_path("evaluation", language).with_name(name)


def read_passages(languages: Collection[str], folder: Path | None = None, limit: int | None = None) -> Passages:
    """Reads the neutral passages.

    Args:
        languages: That the tasks ask in; both if there are none.
        folder: Of the user's items, which may have ``neutral.{zh,en}.jsonl`` of their own.
        limit: The most passages of a language.

    Returns:
        The passages; none of a language that has no file.

    Raises:
        CVoiceError: A line is no object with "id" and "text", or an id stands twice.
    """
    found: Passages = {}
    for language in LANGUAGES:
        path = passages_path(language, folder)
        if (languages and language not in languages) or not path.is_file():
            continue
        of_language: Passages = {}
        for number, line in read_json_lines(path, "file of passages"):
            name, text = line.get("id"), line.get("text")
            if not isinstance(name, str) or not isinstance(text, str) or not name.strip() or not text.strip():
                raise CVoiceError(
                    f'{path}, line {number}: a passage is {{"id": ..., "text": ...}}, neither of them empty'
                )
            key = ("neutral", language, "", name, "")
            if key in of_language:
                raise CVoiceError(f"{path}, line {number}: the id {name!r} stands twice; every passage has its own")
            of_language[key] = text
        found |= dict(list(of_language.items())[:limit])
    return found


def perplexities(lm: NeuronMaskedHFLM, passages: Passages) -> Numbers:
    """Perplexity of each passage: exp of its mean negative log-likelihood a token.

    The first token is predicted from the model's start (or end) token, and a passage that is longer than the context
    is cut into windows without overlap, as lm-eval does for its perplexity tasks.

    Args:
        lm: The model, with a mask in force or without.
        passages: From :func:`read_passages`.

    Returns:
        A number a passage, in the order of the passages.
    """
    windows, owners = [], []
    lengths: dict[tuple[str, ...], int] = {}
    for key, text in passages.items():
        tokens = lm.tok_encode(text)
        lengths[key] = len(tokens)
        for window in get_rolling_token_windows(
            token_list=tokens, prefix_token=lm.prefix_token_id, max_seq_len=lm.max_length, context_len=1
        ):
            windows.append((None, *make_disjoint_window(window)))
            owners.append(key)
    scores = lm._loglikelihood_tokens(windows, disable_tqdm=True) if windows else []
    totals = dict.fromkeys(passages, 0.0)
    for key, (log_likelihood, _) in zip(owners, scores, strict=True):
        totals[key] += log_likelihood
    return {key: math.exp(-total / lengths[key]) for key, total in totals.items()}
