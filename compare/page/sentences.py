"""Headline sentences, made from the numbers with their uncertainty; where nothing can be claimed they say so."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Cells = Sequence[Mapping[str, Any]]
READINGS = {
    "letters": "choice",
    "recog": "recognition",
    "cloze": "choice by the acts' own text",
    "gen": "choice in free answers",
    "likert": "rating",
}


def points(share: float) -> str:
    """A share's difference in percentage points, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "−")


def interval(estimate: Mapping[str, Any]) -> str:
    """An estimate with its interval, in percentage points."""
    low, high = points(estimate["low"]), points(estimate["high"])
    return f"{points(estimate['difference'])} points (95 % interval {low} to {high})"


def headlines(effects: Mapping[str, Any]) -> list[str]:
    """What the page says first.

    Args:
        effects: As ``effects.json`` holds them.
    """
    cells: Cells = [cell for cell in effects["cells"] if cell["family"] == "letters"] or effects["cells"]
    own = [cell for cell in cells if cell["mask"] == cell["value"]]
    told = [_own_sentence(own)] if own else []
    told += [_together_sentence(effects["together"])] if effects["together"] else []
    if not cells:
        told.append("No task of C-voice was run, so there is no effect on a value to tell of.")
    claimed_elsewhere = [cell for cell in cells if cell["claimed"] and cell["mask"] != cell["value"]]
    if claimed_elsewhere:
        most = max(claimed_elsewhere, key=lambda cell: abs(cell["acc"]["difference"]))
        told.append(
            f"Effects on another value than the mask's own: {len(claimed_elsewhere)} claimed, the largest "
            f"{most['mask']} on {most['value']}, {interval(most['acc'])}."
        )
    elif any(cell["claimed"] for cell in cells):
        told.append("No effect on another value than the mask's own is claimed.")
    told += [_specific_sentence(effects["specificity"])] if effects["specificity"] else []
    told += [_recognition_sentence(effects["recognition"])] if effects["recognition"] else []
    told += [_perplexity_sentence(effects["perplexity"])] if effects["perplexity"] else []
    told += [_ability_sentence(effects["ability"])] if effects["ability"] else []
    return [sentence for sentence in told if sentence]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _own_sentence(own: Cells) -> str:
    claimed = [cell for cell in own if cell["claimed"]]
    pairs = min(cell["acc"]["pairs"] for cell in own)
    if not claimed:
        most = max(own, key=lambda cell: abs(cell["acc"]["difference"]))
        return (
            f"No effect of a mask on its own value can be claimed ({_count(len(own), 'mask')}, {pairs} pairs a value). "
            f"The largest seen: {most['mask']}, {interval(most['acc'])}, rank {most['rank']} of {most['of']} among "
            "random masks."
        )
    most = max(claimed, key=lambda cell: abs(cell["acc"]["difference"]))
    return (
        f"Of {_count(len(own), 'mask')}, {len(claimed)} changed the choices of the own value beyond chance and beyond "
        f"random masks of the same size. The largest: {most['mask']}, {interval(most['acc'])} of "
        f"{100 * most['baseline']:.0f} %, on {pairs} pairs."
    )


def _together_sentence(found: Mapping[str, Any]) -> str:
    verdict = "more than chance and more than random masks" if found["claimed"] else "which cannot be claimed"
    return (
        f"All {len(found['masks'])} masks together change their own values by {interval(found['acc'])} on "
        f"{found['acc']['pairs']} pairs, p = {found['p']:.2g}, rank {found['rank']} of {found['of']} among sets of "
        f"random masks: {verdict}."
    )


def _specific_sentence(found: Sequence[Mapping[str, Any]]) -> str:
    clear = [one for one in found if one["difference"]["high"] < 0 or one["difference"]["low"] > 0]
    return (
        f"{len(clear)} of {_count(len(found), 'mask')} moved the own value by another amount than the others (95 % "
        "interval without 0, not corrected)."
    )


def _recognition_sentence(found: Sequence[Mapping[str, Any]]) -> str:
    # The last is of all masks together, or of the only one.
    last = found[-1]
    who = "over all masks" if last["mask"] is None else f"under {last['mask']}"
    return (
        f"{who[0].upper()}{who[1:]} the own value's choice moves by {interval(last['choice'])} and its recognition by "
        f"{interval(last['recognition'])}; within {last['difference']['pairs']} pairs they differ by "
        f"{interval(last['difference'])}."
    )


def times(ratio: float) -> str:
    """A ratio, to three figures; thousands in full."""
    return f"{ratio:,.0f}" if ratio >= 1000 else f"{ratio:.3g}"


def ratio_interval(log_ratio: Mapping[str, Any]) -> str:
    """A ratio with its interval, from an estimate of its logarithm."""
    low, high = (times(math.exp(log_ratio[edge])) for edge in ("low", "high"))
    return f"{times(math.exp(log_ratio['difference']))} times (95 % interval {low} to {high})"


def _perplexity_sentence(found: Sequence[Mapping[str, Any]]) -> str:
    worst = max(found, key=lambda one: one["log_ratio"]["difference"])
    return (
        f"Perplexity on neutral passages rises most under {worst['mask']} ({worst['language']}): "
        f"{ratio_interval(worst['log_ratio'])}, from {times(worst['before'])} to {times(worst['after'])} on "
        f"{worst['log_ratio']['documents']} passages, rank {worst['rank']} of {worst['of']} among random masks."
    )


def _ability_sentence(found: Sequence[Mapping[str, Any]]) -> str:
    worst = min(found, key=lambda one: one["effect"]["difference"])
    effect = worst["effect"]
    return (
        f"On tasks that ask about no value the largest loss is {worst['mask']}'s on {worst['task']}: "
        f"{effect['difference']:+.3f} (95 % interval {effect['low']:+.3f} to {effect['high']:+.3f}, "
        f"{effect['documents']} documents)."
    )
