"""Language models without eyes, whose scores theory gives: each reads the end of a prompt and answers by a rule."""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import Any

from lm_eval.api.model import LM

UNLIKELY = -1000.0
"""Log-likelihood of what a model would never say; exp of it is 0."""


def options(prompt: str) -> tuple[str, str]:
    """The texts behind "A. " and "B. " in the last question of a prompt."""
    first, second = re.findall(r"^A\. (.*)\nB\. (.*)$", prompt, re.MULTILINE)[-1]
    return first, second


def act(prompt: str) -> str:
    """The act that the last question of a prompt asks to rate."""
    return str(re.findall(r"^(?:One possible act: |有这样一种做法：)(.*)$", prompt, re.MULTILINE)[-1])


class RuleLM(LM):
    """A model that says one thing."""

    @abstractmethod
    def says(self, prompt: str) -> str:
        """Its answer."""

    def score(self, prompt: str, text: str) -> float:
        """Log-likelihood of an answer: certain if it is what it says, else a thousand nats a character."""
        return 0.0 if text == self.says(prompt) else UNLIKELY * len(text)

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        return [(self.score(prompt, text.strip()), False) for prompt, text in (request.args for request in requests)]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        raise AssertionError("not asked for")

    def generate_until(self, requests: list[Any]) -> list[str]:
        return [self.says(request.args[0]) for request in requests]


class AlwaysA(RuleLM):
    """Says A, whatever is asked."""

    def says(self, prompt: str) -> str:
        return "A"


class AlwaysLonger(RuleLM):
    """Chooses the longer text; of two texts by themselves, every one costs it the same, so the longer costs less a
    character; rates an act by its number of characters."""

    def says(self, prompt: str) -> str:
        if prompt.rstrip().endswith(("one digit only.\nAnswer:", "一个数字。\n答案：")):
            return str(min(4, len(act(prompt)) // 10))
        first, second = options(prompt)
        asked_for_letter = prompt.rstrip().endswith(("one letter only.\nAnswer:", "一个字母。\n答案："))
        longer = 0 if len(first) > len(second) else 1
        return "AB"[longer] if asked_for_letter else (first, second)[longer]

    def score(self, prompt: str, text: str) -> float:
        return super().score(prompt, text) if len(text) == 1 else -1.0


class EveryPattern(RuleLM):
    """Answers at random, so to speak: over pairs numbered 0 to n^k − 1 it gives every row of k answers out of n once.

    What a random model scores in the mean over all draws, this one scores exactly. Its items tell the pair's number,
    ``#12``, and the twin, ``(a)``, in their stories.
    """

    def __init__(self, answers: tuple[str, ...], documents: int, first: str) -> None:
        super().__init__()
        self._answers = answers
        self._documents = documents
        self._first = first
        """How the text begins that stands first, or is rated, in a pair's documents number 0 and 2."""

    def place(self, prompt: str) -> int:
        """Which document of its pair a prompt is."""
        twin = "ab".index(re.findall(r"\(([ab])\)", prompt)[-1])
        if self._documents == 2:
            return twin
        shown = options(prompt)[0] if "\nB. " in prompt else act(prompt)
        return 2 * twin + (not shown.startswith(self._first))

    def says(self, prompt: str) -> str:
        number = int(re.findall(r"#(\d+)", prompt)[-1])
        return self._answers[number // len(self._answers) ** self.place(prompt) % len(self._answers)]
