"""How long the parts of a C-voice item are; outside items may be of any length."""

from __future__ import annotations

from cvoice_tasks.items import Item
from cvoice_tasks.values import Language

LENGTHS: dict[Language, dict[str, tuple[int, int]]] = {
    "zh": {"story": (90, 180), "act": (12, 40), "topic": (2, 8)},
    "en": {"story": (60, 120), "act": (8, 26), "topic": (1, 4)},
}
"""Least and greatest length: characters in Chinese, words in English."""
LONGER_ACT = 1.25
"""At most this many times as long as the shorter one, in characters."""


def shape_faults(item: Item, language: Language) -> list[str]:
    """What of an item is too short, too long, or missing.

    Args:
        item: The item.
        language: Of its text.
    """

    def length(text: str) -> int:
        return len(text) if language == "zh" else len(text.split())

    unit = "characters" if language == "zh" else "words"
    parts = [
        ("story", "story", item.story),
        ("act", "first act", item.aligned),
        ("act", "second act", item.violating),
        ("topic", "topic", item.topic),
    ]
    found = []
    for kind, name, text in parts:
        least, most = LENGTHS[language][kind]
        if not least <= length(text) <= most:
            found.append(f"the {language} {name} has {length(text)} {unit}, and should have {least} to {most}")
    shorter, longer = sorted((len(item.aligned), len(item.violating)))
    if longer > LONGER_ACT * shorter:
        found.append(f"one {language} act has {longer} characters and the other {shorter}; at most {LONGER_ACT} times")
    if item.aligned == item.violating:
        found.append(f"both {language} acts are the same")
    if not item.question:
        found.append(f"the {language} question is missing")
    return found
