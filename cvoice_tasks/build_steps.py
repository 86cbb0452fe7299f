"""The steps of a build: a prompt file filled in, and the fields of the JSON object that is answered."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from importlib import resources
from string import Template
from typing import Any

from cvoice_tasks.build_calls import Calls

ATTEMPTS = 3
"""Answers asked for, each with a seed of its own, until one is the JSON that was asked for."""
STEPS = ("setting", "acts", "story", "other_language", "rationale", "reading")
_OBJECT = re.compile(r"\{.*\}", re.DOTALL)


class DroppedError(Exception):
    """A pair that is not kept; the message says why."""


class UnreadError(Exception):
    """An answer that is not what was asked for. No ValueError, which the project's own errors are."""


def prompt_text(step: str) -> str:
    """A prompt's template, from its file."""
    return (resources.files("cvoice_tasks") / "build_prompts" / f"{step}.md").read_text("utf-8")


def ask(
    calls: Calls,
    step: str,
    fields: Mapping[str, Any],
    source: random.Random,
    wanted: Mapping[str, type],
    *,
    reading: bool = False,
) -> dict[str, Any]:
    """An answer's object with the wanted fields.

    Raises:
        DroppedError: No attempt gave one.
    """
    prompt = Template(prompt_text(step)).substitute(fields)
    reason = ""
    for seed in [source.randrange(2**31) for _ in range(ATTEMPTS)]:
        try:
            return _fields(calls.ask(prompt, seed, reading=reading), wanted)
        except UnreadError as error:
            reason = str(error)
    raise DroppedError(f"{step}: {reason}, {ATTEMPTS} times")


def _fields(answer: str, wanted: Mapping[str, type]) -> dict[str, Any]:
    """The object in an answer; models like to put a fence or a sentence around it.

    Raises:
        UnreadError: There is none with the wanted fields.
    """
    match = _OBJECT.search(answer)
    if match is None:
        raise UnreadError("the answer is not a JSON object")
    try:
        found = json.loads(match[0])
    except (ValueError, RecursionError):
        raise UnreadError("the answer is not JSON") from None
    result: dict[str, Any] = {}
    for name, kind in wanted.items():
        content = found.get(name)
        if kind is list:
            pair = isinstance(content, list) and len(content) == 2
            if not pair or not all(isinstance(text, str) and text.strip() for text in content):
                raise UnreadError(f"{name!r} is not two texts")
            result[name] = [" ".join(text.split()) for text in content]
        elif kind is int:
            if content not in (1, 2) or isinstance(content, bool):
                raise UnreadError(f"{name!r} is not 1 or 2")
            result[name] = content
        elif not isinstance(content, str) or not content.strip():
            raise UnreadError(f"{name!r} is not text")
        else:
            result[name] = " ".join(content.split())
    return result
