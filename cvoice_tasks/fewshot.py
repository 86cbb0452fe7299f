"""Which items a few-shot prompt shows, in which order, and where their answers stand.

lm-eval's ``first_n`` sampler takes the first k documents, the same for every question, so the order made here is the
whole design of the prompt: deterministic, and balanced at whatever k a user asks for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cvoice_foundation.errors import CVoiceError
from cvoice_tasks.items import Item, items_path, load_items, pair_of
from cvoice_tasks.values import LEVELS, VALUES, Language

_VALUE_ORDER: tuple[str, ...] = tuple(
    value.key for place in range(4) for value in (([v for v in VALUES if v.level == level])[place] for level in LEVELS)
)
"""One value of each level in turn, so that three shots already show all three levels."""


class Shot(NamedTuple):
    """One example of a few-shot prompt.

    Attributes:
        item: The item.
        gold: 0 if its answer is the first of two (letter A; in Likert prompts the aligned act is rated), else 1.
    """

    item: Item
    gold: int


def _thue_morse(place: int) -> int:
    """0 1 1 0 1 0 0 1 ...: as many 0 as 1 in every prefix of even length, and no period to be copied."""
    return place.bit_count() % 2


def shots(items: Sequence[Item]) -> list[Shot]:
    """Orders few-shot items.

    First one story of each pair, the pairs' values and levels taking turns and the twins a and b too: no story and no
    act is shown twice, so no shot gives away another's answer. The pairs' other stories follow, with the other letter.

    Args:
        items: The few-shot items of one language.

    Returns:
        Every item once.
    """
    by_value: defaultdict[str, dict[str, list[Item]]] = defaultdict(dict)
    for item in items:
        by_value[item.value].setdefault(pair_of(item.id), []).append(item)
    pairs = {value: list(clusters.values()) for value, clusters in by_value.items()}
    deepest = max((len(clusters) for clusters in pairs.values()), default=0)
    turns = [pairs[v][depth] for depth in range(deepest) for v in _VALUE_ORDER if depth < len(pairs.get(v, ()))]
    # The twin shown first changes every second turn, the letter by Thue and Morse: twin and letter are unrelated.
    turned = [pair[::-1] if place // 2 % 2 else pair for place, pair in enumerate(turns)]
    longest = max(map(len, turned), default=0)
    return [
        Shot(pair[number], (_thue_morse(place) + number) % 2)
        for number in range(longest)
        for place, pair in enumerate(turned)
        if number < len(pair)
    ]


def load_shots(language: Language, folder: Path | None, evaluation: Sequence[Item]) -> list[Shot]:
    """The shots of a language: a folder's own if it has some, else the bundled ones.

    Args:
        language: ``zh`` or ``en``.
        folder: The user's ``data_dir``; None for the bundled items.
        evaluation: The items that will be asked.

    Returns:
        The shots; none where neither place has a few-shot file, and lm-eval then refuses ``--num_fewshot``.

    Raises:
        CVoiceError: The file is not right, or an item is both shown and asked.
    """
    own = folder is not None and items_path("fewshot", language, folder).is_file()
    place = folder if own else None
    path = items_path("fewshot", language, place)
    if not path.is_file():
        return []
    items = load_items("fewshot", language, place)
    # Equal ids of two authors mean nothing; equal stories would show the answer of what is asked.
    asked = {item.story for item in evaluation}
    both = next((item for item in items if item.story in asked), None)
    if both is not None:
        raise CVoiceError(
            f"{path}: the story of {both.id!r} is among the evaluation items too, and a shot would give its "
            "answer away; few-shot items are others than those that are asked"
        )
    return shots(items)
