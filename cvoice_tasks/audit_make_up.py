"""What a set of items is made of: lengths, variety, names, topics."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from cvoice_tasks.audit_baselines import first_mention
from cvoice_tasks.items import Item, pair_of, twin_ids

_PERSON = {"zh": re.compile(r"(.+?)会"), "en": re.compile(r"[Ww](?:hat|ill|ould|hich)\b.*?\b((?:[A-Z]\w+ ?)+)")}


def _words(text: str, language: str) -> list[str]:
    return re.findall(r"\w+", text.casefold()) if language == "en" else list(re.sub(r"\W+", "", text))


def distinct_n(items: Sequence[Item], language: str, n: int) -> float:
    """Distinct word (zh: character) n-grams over all n-grams of the stories (Li et al., 2016)."""
    grams = [
        tuple(words[i : i + n])
        for words in (_words(one.story, language) for one in items)
        for i in range(len(words) - n + 1)
    ]
    return len(set(grams)) / max(1, len(grams))


def make_up(items: Sequence[Item], language: str) -> dict[str, float]:
    """Figures that are reported and have no limit.

    Args:
        items: Items of one split and language.
        language: ``zh`` (lengths in characters) or ``en`` (in words).
    """
    lengths = [len(_words(one.story, language)) for one in items]
    ratios = [max(len(one.aligned), len(one.violating)) / min(len(one.aligned), len(one.violating)) for one in items]
    figures: dict[str, float] = {
        "stories": len(items),
        "numbers": len({pair_of(one.id) for one in items}),
        "story_length_min": min(lengths),
        "story_length_mean": float(np.mean(lengths)),
        "story_length_max": max(lengths),
        "act_length_ratio_max": max(ratios),
        "distinct_1": distinct_n(items, language, 1),
        "distinct_2": distinct_n(items, language, 2),
        "distinct_3": distinct_n(items, language, 3),
    }
    by_number = {pair_of(one.id): one for one in reversed(items)}
    found = (_PERSON[language].search(one.question) for one in by_number.values())
    names = Counter(match[1].strip() for match in found if match)
    if names:
        figures |= {"names": len(names), "numbers_of_commonest_name": max(names.values())}
    topics: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for one in by_number.values():
        if one.topic:
            topics[one.value][one.topic] += 1
    if topics:
        figures["topics"] = len({topic for counts in topics.values() for topic in counts})
        figures["topics_twice_in_a_value"] = sum(n > 1 for counts in topics.values() for n in counts.values())
    twins = twin_ids(items)
    firsts = [one for one in items if one.id in twins and one.id.endswith("a")]
    shorter = [len(one.aligned) < len(one.violating) for one in firsts if len(one.aligned) != len(one.violating)]
    if shorter:
        figures["pairs_with_acts_of_unequal_length"] = len(shorter)
        figures["pairs_shorter_act_aligned_in_a"] = float(np.mean(shorter))
    mentions = [
        (
            first_mention(one.aligned, one.violating, one.story, language),
            first_mention(one.violating, one.aligned, one.story, language),
        )
        for one in firsts
    ]
    first = [aligned < violating for aligned, violating in mentions if aligned != violating]
    if first:
        figures["pairs_first_mentioned_act_aligned_in_a"] = float(np.mean(first))
    return figures
