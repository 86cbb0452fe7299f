"""effects.json to one self-contained page: no script, no network, readable on a phone and on paper."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from compare.page import tables
from compare.page.drawings import effect_plot, ink, language_plot, layer_plot, tint
from compare.page.sentences import READINGS, headlines, points
from cvoice_foundation.errors import CVoiceError
from cvoice_foundation.files import write_whole

_FULL_INK = 0.2
"""Effects of at least this have the darkest ground: a table of small effects should look pale."""

_RECOGNITION = (
    "Effect of each mask on its own value, in points of <code>acc</code>: on choosing the act that upholds it, on "
    "recognising that act, and the difference within pairs. A value that is still recognised and no longer chosen has "
    "lost its pull, not its meaning."
)
_PERPLEXITY = (
    "Geometric means over passages; the ratio and its interval passage by passage. Rank: among the random masks, by "
    "the size of the change."
)
_ABILITY = "Masked minus unmasked, document by document, on the first metric of each task."

_STYLE = (Path(__file__).parent / "page.css").read_text("utf-8")


def write_page(effects: Mapping[str, Any], path: Path) -> Path:
    """Writes the page.

    Args:
        effects: As ``effects.json`` holds them.
        path: ``report.html``.
    """
    write_whole(path, page(effects))
    return path


def read_effects(folder: Path) -> dict[str, Any]:
    """Reads ``effects.json``.

    Raises:
        CVoiceError: It is not there, or not one.
    """
    path = folder / "effects.json" if folder.is_dir() else folder
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        assert content["format"] == "cvoice-effects"
        assert content["version"] == 3
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise CVoiceError(
            f"{path}: not an effects file ({error or 'of another version'}); `cvoice effects` writes them"
        ) from None
    return content


def page(effects: Mapping[str, Any]) -> str:
    """The page's HTML; every text is escaped, and nothing is fetched."""
    cells: Sequence[Mapping[str, Any]] = effects["cells"]
    model = str(effects["settings"]["model"])
    sections = []
    for family in dict.fromkeys(cell["family"] for cell in cells):
        sections.append(_heat_map([cell for cell in cells if cell["family"] == family], family))
    own = [cell for cell in cells if cell["family"] == "letters" and cell["mask"] == cell["value"]]
    if own:
        sections.append(_effects(own))
        if any(cell["between_languages"] for cell in own):
            sections.append(_languages(own))
    if effects["recognition"]:
        sections.append(_section("Choice and recognition", tables.recognition(effects["recognition"]), _RECOGNITION))
    if effects["perplexity"]:
        sections.append(
            _section("Perplexity on neutral passages", tables.perplexity(effects["perplexity"]), _PERPLEXITY)
        )
    if effects["ability"]:
        sections.append(_section("Tasks that ask about no value", tables.ability(effects["ability"]), _ABILITY))
    sections += [_layers(effects["masks"]), _flips(effects), _to_repeat(effects)]
    first = "".join(f"<p>{escape(sentence)}</p>" for sentence in headlines(effects))
    remarks = "".join(f'<p class="note">{escape(remark)}</p>' for remark in effects["remarks"])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>What masks change in {escape(model)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>What masks change in {escape(model)}</h1>"
        f'<div class="headline">{first}</div>{remarks}{"".join(sections)}</body></html>\n'
    )


def _section(title: str, body: str, note: str = "") -> str:
    told = f'<p class="note">{note}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{told}{body}</section>"


def _heat_map(cells: Sequence[Mapping[str, Any]], family: str) -> str:
    values = list(dict.fromkeys(cell["value"] for cell in cells))
    masks = list(dict.fromkeys(cell["mask"] for cell in cells))
    full = max(_FULL_INK, *(abs(cell["acc"]["difference"]) for cell in cells))
    of = {(cell["mask"], cell["value"]): cell for cell in cells}
    head = "".join(f'<th><span class="column">{escape(value)}</span></th>' for value in values)
    rows = []
    for mask in masks:
        row = [f"<td>{escape(mask)}</td>"]
        for value in values:
            cell = of[mask, value]
            share, estimate = cell["acc"]["difference"], cell["acc"]
            title = (
                f"{mask} on {value}: {points(share)} points, 95 % interval {points(estimate['low'])} to "
                f"{points(estimate['high'])}, p (Holm) {cell['p_holm']:.3g}, rank {cell['rank']} of {cell['of']}, "
                f"{estimate['pairs']} pairs"
            )
            shown = f"{100 * share:+.0f}".replace("-", "−").replace("+0", "0").replace("−0", "0")
            css = f"background:{tint(share, full)};color:{ink(share, full)}"
            name = ' class="own"' if mask == value else ""
            star = "<b>*</b>" if cell["claimed"] else ""
            row.append(f'<td{name} style="{css}" title="{escape(title)}">{shown}{star}</td>')
        rows.append(f"<tr>{''.join(row)}</tr>")
    claimed = sum(cell["claimed"] for cell in cells)
    note = (
        "Rows: masks. Columns: values asked about. Percentage points of <code>acc</code>, masked minus unmasked; a "
        f"frame marks a mask's own value. * claimed ({claimed} of {len(cells)}): p ≤ 0.05 corrected over this table "
        "(Holm, sign flips of whole pairs) and among the most extreme 5 % of random masks that match it."
    )
    table = f'<div class="wide"><table class="heat"><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'
    return _section(f"Masks and values: {READINGS.get(family, family)}", table, note)


def _effects(own: Sequence[Mapping[str, Any]]) -> str:
    note = (
        "Dot: effect of a mask on its own value, full where claimed; line: 95 % interval; grey: from the least to the "
        "largest effect of the random masks that match it. A dot inside the grey is what any neurons would do."
    )
    return _section("Each mask on its own value", _drawn(effect_plot(own)) + tables.own_values(own), note)


def _languages(own: Sequence[Mapping[str, Any]]) -> str:
    both = [cell["between_languages"] for cell in own if cell["between_languages"]]
    apart = sum(found["low"] > 0 or found["high"] < 0 for found in both)
    note = (
        "Each dot is a mask's effect on its own value (point at one that has no room for its name); on the dashed line "
        "both languages move alike. Within pairs, "
        f"{apart} of {len(both)} differ between the languages (95 % interval without 0, not corrected)."
    )
    return _section("Chinese and English", _drawn(language_plot(own)), note)


def _layers(masks: Sequence[Mapping[str, Any]]) -> str:
    note = (
        "Neurons of each mask in each layer, the first layer at the left; in all at the right, with those never active."
    )
    return _section("Neurons by layer", _drawn(layer_plot(masks)), note)


def _drawn(drawing: str) -> str:
    """A drawing that scrolls sideways where the screen is too narrow for its letters."""
    return f'<div class="wide drawn">{drawing}</div>'


def _flips(effects: Mapping[str, Any]) -> str:
    counts = "; ".join(f"{name} {n['changed']} of {n['of']}" for name, n in effects["flips"].items() if n["of"])
    shown = []
    for flip in effects["flipped"]:
        said = "".join(
            f'<p>{when}: <span class="said">{escape(flip[key])}</span></p>'
            for when, key in (("Without the mask", "said_before"), ("With it", "said_after"))
            if flip[key]
        )
        options = "".join(
            f"<p>{letter}. {escape(text)}{' <i>(upholds the value)</i>' if letter == flip['aligned'] else ''}</p>"
            for letter, text in flip["options"].items()
        )
        language = "zh-Hans" if flip["language"] == "zh" else "en"
        choice = f"{escape(flip['item'])} · {escape(flip['before'])} → {escape(flip['after'])}"
        shown.append(
            f'<div class="flip" lang="{language}"><p><b>{escape(flip["mask"])}</b> · {choice}</p>'
            f"<p>{escape(flip['story'])}</p>{options}{said}</div>"
        )
    body = "".join(shown) or "<p>No choice changed.</p>"
    return _section(
        "Choices that flipped",
        body,
        escape(f"Documents whose choice changed: {counts or 'none asked'}. Up to 12 a mask are shown."),
    )


def _to_repeat(effects: Mapping[str, Any]) -> str:
    settings = effects["settings"]
    told = {
        "settings": settings,
        "matched_by": effects["matched_by"],
        "loaded": effects["loaded"],
        "asked": effects["asked"],
        "created": effects["created"],
        "masks": {mask["name"]: {"sha256": mask["sha256"], "method": mask["method"]} for mask in effects["masks"]},
    }
    text = f"{tables.command(settings)}\n\n{json.dumps(told, indent=1, ensure_ascii=False)}"
    return _section("To repeat it", f"<pre>{escape(text)}</pre>")
