"""Tables of the page beside the matrices: recognition, ability, perplexity, and the command that repeats it all."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from compare.page.sentences import points, ratio_interval, times


def table(names: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table with plain text in its cells; scrolls sideways on a narrow screen."""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def own_values(own: Sequence[Mapping[str, Any]]) -> str:
    """Each mask on its own value, in numbers."""
    told = ("mask", "acc before", "effect", "95 % interval", "p (Holm)", "rank", "pairs changed")
    names = (*told, "right throughout: lost, won", "p (McNemar)")
    return table(
        names,
        (
            (
                cell["mask"],
                f"{100 * cell['baseline']:.0f} %",
                points(cell["acc"]["difference"]),
                _range(cell["acc"]),
                f"{cell['p_holm']:.3g}",
                f"{cell['rank']} of {cell['of']}",
                f"{cell['acc']['changed']} of {cell['acc']['pairs']}",
                *_twins(cell["twins"]),
            )
            for cell in own
        ),
    )


def recognition(found: Sequence[Mapping[str, Any]]) -> str:
    """Choice beside recognition, mask by mask."""
    names = ("mask", "choice", "95 % interval", "recognition", "95 % interval", "difference", "95 % interval", "pairs")
    kinds = ("choice", "recognition", "difference")
    return table(
        names,
        (
            (
                one["mask"] or "all together",
                *(text for kind in kinds for text in (points(one[kind]["difference"]), _range(one[kind]))),
                str(one["difference"]["pairs"]),
            )
            for one in found
        ),
    )


def perplexity(found: Sequence[Mapping[str, Any]]) -> str:
    """Perplexity on neutral passages, mask by mask and language by language."""
    names = ("mask", "language", "before", "after", "after / before", "rank", "passages")
    return table(
        names,
        (
            (
                one["mask"],
                one["language"],
                times(one["before"]),
                times(one["after"]),
                ratio_interval(one["log_ratio"]),
                f"{one['rank']} of {one['of']}",
                str(one["log_ratio"]["documents"]),
            )
            for one in found
        ),
    )


def ability(found: Sequence[Mapping[str, Any]]) -> str:
    """Tasks that ask about no value, mask by mask."""
    return table(
        ("mask", "task", "effect", "95 % interval", "documents"),
        (
            (
                one["mask"],
                one["task"],
                f"{one['effect']['difference']:+.3f}",
                f"{one['effect']['low']:+.3f} to {one['effect']['high']:+.3f}",
                str(one["effect"]["documents"]),
            )
            for one in found
        ),
    )


def command(settings: Mapping[str, Any]) -> str:
    """The command that gave these numbers, with MASKS and OUT for the folders."""
    words = ["cvoice", "effects", "--model", settings["model"], "--masks", "MASKS", "--out", "OUT"]
    words += ["--tasks", ",".join(settings["tasks"])]
    for option, key in _OPTIONS.items():
        if settings[key] is not None:
            words += [option, str(settings[key])]
    return shlex.join(words + ["--apply-chat-template"] * bool(settings["chat"]))


_OPTIONS = {
    "--mode": "mode",
    "--strength": "strength",
    "--controls": "controls",
    "--seed": "seed",
    "--batch-size": "batch_size",
    "--dtype": "dtype",
    "--limit": "limit",
    "--num-fewshot": "shots",
    "--data-dir": "data_dir",
    "--revision": "revision",
}
"""Options of ``cvoice effects`` and the settings they set."""


def _range(estimate: Mapping[str, Any]) -> str:
    return f"{points(estimate['low'])} to {points(estimate['high'])}"


def _twins(twins: Mapping[str, Any] | None) -> tuple[str, str]:
    if twins is None:
        return "no twins", ""
    return f"{twins['lost']}, {twins['won']} of {twins['pairs']}", f"{twins['p']:.3g}"
