"""Reading a choice out of a free answer, in Chinese and English, by the table in ``answer_rules``.

What counts is what the answer says of itself: a statement of choice beats a first letter, a first letter beats praise,
praise beats a mere mention. An answer that names no option, or both alike, is unparsed; it is never guessed.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

from cvoice_tasks.answer_rules import (
    BOTH,
    MARKS,
    NAMES,
    NEXT_QUESTION,
    REFUSALS,
    RULES,
    THINKING,
    TURNED_DOWN,
    WEAKENED,
)

Reading = Literal["A", "B", "refused", "unparsed"]

_CLAUSE_END = re.compile(r"[.。!?;,\n]")
_SENTENCE_END = re.compile(r"[.。!?;\n]")
_REACH = 200
"""How far back the beginning of a sentence is looked for, in characters."""


def strip_thinking(answer: str) -> str:
    """An answer without its thinking: all before the last closing tag, and what an unclosed tag opens."""
    for pattern in THINKING:
        answer = pattern.sub("", answer)
    return answer


def _plain(text: str) -> str:
    """Full-width forms made narrow, apostrophes straight, no Markdown marks."""
    return re.sub(r"\*\*|__|[`$]", "", unicodedata.normalize("NFKC", text).replace("’", "'"))


def _act_pattern(act: str) -> re.Pattern[str]:
    """An act as it may be quoted: its full stop and the third person's s of its first word may be left out."""
    words = _plain(act).strip().rstrip(".。!").split()
    if not words:
        return re.compile(r"(?!)")  # an act of nothing but punctuation cannot be quoted
    patterns = [re.escape(word) for word in words]
    if re.fullmatch(r"[A-Za-z]+s", words[0]):
        patterns[0] += "?"
    return re.compile(r"\s+".join(patterns), re.IGNORECASE)


def _marked(text: str, option_a: str, option_b: str) -> str:
    """The text with every name of an option, its own words among them, rewritten to its mark."""
    # The longer act first: the shorter one may stand inside it.
    for mark, act in sorted(zip(MARKS, (option_a, option_b), strict=True), key=lambda pair: -len(pair[1])):
        text = _act_pattern(act).sub(mark, text)
    for place, pattern in NAMES:
        text = pattern.sub(MARKS[place], text)
    # "A. <its own text>" names one option once, and brackets around a name are dress.
    text = re.sub(r"⟦([AB])⟧[\s.:、)\-]*⟦\1⟧", r"⟦\1⟧", text)
    text = re.sub(r"[(\[【{]\s*(⟦[AB]⟧)\s*[)\]】}]", r"\1", text)
    return BOTH.sub("⟦both⟧", text).strip()


def _parts(act: str) -> set[str]:
    """What of an act is long enough to be a quotation: three words running, or five Chinese characters."""
    words = re.findall(r"[a-z0-9]+(?:['-][a-z0-9]+)*", act.lower())
    chinese = re.findall(r"[\u4e00-\u9fff]+", act)
    return {" ".join(words[i : i + 3]) for i in range(len(words) - 2)} | {
        run[i : i + 5] for run in chinese for i in range(len(run) - 4)
    }


def _partly_quoted(text: str, option_a: str, option_b: str) -> Reading:
    """The act of which a part is told in its own words, in an answer that names no option and turns nothing down."""
    if REFUSALS.search(text) or TURNED_DOWN.search(text) or WEAKENED.search(text):
        return "unparsed"
    act_a, act_b, told = _parts(_plain(option_a)), _parts(_plain(option_b)), _parts(text)
    from_a, from_b = bool(told & (act_a - act_b)), bool(told & (act_b - act_a))
    if from_a == from_b:
        return "unparsed"
    return "A" if from_a else "B"


def _read(text: str) -> Reading:
    """Reads a marked text."""
    rejected = {m.start("label"): m["label"] for rule in RULES if rule.rejects for m in rule.pattern.finditer(text)}
    # Who turns down both has chosen neither.
    implies_other = len(set(rejected.values())) == 1
    strongest: tuple[float, int, str] | None = None
    for rule in RULES:
        for found in rule.pattern.finditer(text):
            place = found.start("label")
            if not implies_other if rule.rejects else place in rejected:
                continue
            before = text[max(0, place - _REACH) : place]
            clause = _CLAUSE_END.split(before)[-1]
            sentence = _SENTENCE_END.split(before)[-1].lstrip()
            weakened = WEAKENED.search(clause) or WEAKENED.match(sentence)
            label = ("B" if found["label"] == "A" else "A") if rule.rejects else found["label"]
            statement = (rule.strength - (0.5 if weakened else 0.0), place, label)
            strongest = max(strongest or statement, statement)
    if strongest is not None:
        return "A" if strongest[2] == "A" else "B"
    named = set(re.findall(r"⟦([AB])⟧", text))
    if len(named) == 1:
        return "A" if named == {"A"} else "B"
    return "refused" if REFUSALS.search(text) else "unparsed"


def read_answer(answer: str, option_a: str, option_b: str) -> Reading:
    """Reads which option a free answer chooses.

    Args:
        answer: What the model wrote; thinking between tags does not count.
        option_a: The text of option A, which may be quoted in place of the letter.
        option_b: The text of option B.

    Returns:
        ``A`` or ``B``; ``refused`` if the answer chooses nothing and says that it will not or cannot; else
        ``unparsed``.
    """
    text = _plain(strip_thinking(answer))
    question = NEXT_QUESTION.search(text)
    if question:
        own = text[: question.start()].strip().split("\n\n")[0]
        reading = _read(_marked(own, option_a, option_b))
        if reading in ("A", "B"):
            return reading
    reading = _read(_marked(text, option_a, option_b))
    return _partly_quoted(text, option_a, option_b) if reading == "unparsed" else reading
