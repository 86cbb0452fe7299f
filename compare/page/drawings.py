"""Drawings of the page, as SVG with text that can be read, copied and found; blue and orange for the colour-blind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

_LOSS, _GAIN = (178, 71, 0), (0, 90, 156)
"""Dark orange and blue: told apart with any kind of colour vision, and in grey by their signs."""


def tint(share: float, full: float) -> str:
    """Background of a heat map's cell: orange below 0, blue above, white at 0."""
    strength = min(1.0, abs(share) / full) if full else 0.0
    goal = _LOSS if share < 0 else _GAIN
    return "#" + "".join(f"{round(255 - strength * (255 - part)):02x}" for part in goal)


def ink(share: float, full: float) -> str:
    """Text that can be read on :func:`tint`."""
    return "#fff" if full and abs(share) / full > 0.55 else "#1b1b1b"


class _Canvas:
    def __init__(self, width: int, height: int, label: str) -> None:
        self.parts = [
            f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}" '
            f'xmlns="http://www.w3.org/2000/svg" style="max-width:{width}px">'
        ]

    def line(self, x1: float, y1: float, x2: float, y2: float, **style: Any) -> None:
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{_style(style)}/>')

    def rect(self, x: float, y: float, width: float, height: float, title: str = "", **style: Any) -> None:
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"{_style(style)}>'
            f"{f'<title>{escape(title)}</title>' if title else ''}</rect>"
        )

    def dot(self, x: float, y: float, title: str, **style: Any) -> None:
        self.parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"{_style(style)}><title>{escape(title)}</title></circle>'
        )

    def text(self, x: float, y: float, words: str, **style: Any) -> None:
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}"{_style(style)}>{escape(words)}</text>')

    def done(self) -> str:
        return "".join([*self.parts, "</svg>"])


def _style(style: Mapping[str, Any]) -> str:
    return "".join(f' {name.replace("_", "-")}="{escape(str(value))}"' for name, value in style.items())


def effect_plot(own: Sequence[Mapping[str, Any]]) -> str:
    """Each mask's effect on its own value: dot and interval, over the band of its random masks."""
    low = min([0.0, *(cell["acc"]["low"] for cell in own), *(c for cell in own for c in cell["controls"])])
    high = max([0.0, *(cell["acc"]["high"] for cell in own), *(c for cell in own for c in cell["controls"])])
    span = (high - low) or 1.0
    left, right, row = 110, 640, 26
    canvas = _Canvas(660, row * len(own) + 46, "Effect of each mask on its own value")

    def at(share: float) -> float:
        return float(left + (share - low) / span * (right - left))

    bottom = row * len(own) + 6
    canvas.line(at(0), 0, at(0), bottom, stroke="#888", stroke_dasharray="3 3")
    for number, cell in enumerate(own):
        y = row * number + row / 2 + 2
        canvas.text(left - 8, y + 4, cell["mask"], text_anchor="end")
        if cell["controls"]:
            least, most = at(min(cell["controls"])), at(max(cell["controls"]))
            canvas.rect(least - 2, y - 9, most - least + 4, 18, fill="#d9d9d9")
        estimate = cell["acc"]
        colour = "rgb(178,71,0)" if estimate["difference"] < 0 else "rgb(0,90,156)"
        canvas.line(at(estimate["low"]), y, at(estimate["high"]), y, stroke=colour, stroke_width=2)
        told = f"{cell['mask']}: {100 * estimate['difference']:+.1f} points"
        canvas.dot(
            at(estimate["difference"]),
            y,
            told,
            fill=colour if cell["claimed"] else "#fff",
            stroke=colour,
            stroke_width=2,
        )
    for share in _ticks(low, high):
        canvas.line(at(share), bottom, at(share), bottom + 5, stroke="#444")
        canvas.text(at(share), bottom + 20, _label(share), text_anchor="middle")
    canvas.text(
        (left + right) / 2, bottom + 37, "effect on the own value's acc, percentage points", text_anchor="middle"
    )
    return canvas.done()


def _label(share: float) -> str:
    number = round(100 * share)
    return f"{number:+d}".replace("-", "−") if number else "0"


def _ticks(low: float, high: float) -> list[float]:
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0) if (high - low) / step <= 8 or step == 2.0)
    first = -int(-low / step) if low < 0 else int(low / step)
    return [n * step for n in range(first, int(high / step) + 1)]


def _labels(words: Mapping[tuple[int, int], str], left: int, right: int) -> Iterator[tuple[float, float, str, str]]:
    """Places beside dots where labels cover neither each other nor a dot; a dot without such a place stays unnamed."""
    taken: list[tuple[float, float, float, float]] = [(x - 5, y - 5, x + 5, y + 5) for x, y in words]
    for (x, y), word in words.items():
        width = 6.6 * len(word)
        for up in (4, -7, 15):
            for anchor, edge in (("start", x + 8), ("end", x - 8 - width)):
                box = (edge, y + up - 10, edge + width, y + up + 2)
                inside = left <= box[0] and box[2] <= right
                if inside and not any(
                    box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
                    for other in taken
                ):
                    taken.append(box)
                    yield (edge if anchor == "start" else edge + width), y + up, word, anchor
                    break
            else:
                continue
            break


def language_plot(own: Sequence[Mapping[str, Any]]) -> str:
    """Each mask's effect on its own value in Chinese against that in English."""
    both = [cell for cell in own if {"zh", "en"} <= cell["by_language"].keys()]
    spread = [cell["by_language"][language]["difference"] for cell in both for language in ("zh", "en")]
    edge = 0.08 * (max([0.05, *spread]) - min([-0.05, *spread]))
    low, high = min([-0.05, *spread]) - edge, max([0.05, *spread]) + edge
    size, margin = 340, 52
    canvas = _Canvas(size + 2 * margin, size + margin + 12, "Effects in Chinese against effects in English")

    def at(share: float) -> float:
        return float((share - low) / (high - low) * size)

    canvas.rect(margin, 6, size, size, fill="none", stroke="#bbb")
    canvas.line(margin, 6 + size, margin + size, 6, stroke="#999", stroke_dasharray="4 4")
    for share in _ticks(low, high):
        canvas.text(margin + at(share), size + 22, _label(share), text_anchor="middle")
        canvas.text(margin - 6, 10 + size - at(share), _label(share), text_anchor="end")
    names: dict[tuple[int, int], list[str]] = {}
    for cell in both:
        zh, en = (cell["by_language"][language]["difference"] for language in ("zh", "en"))
        told = f"{cell['mask']}: en {100 * en:+.1f}, zh {100 * zh:+.1f}"
        x, y = margin + at(en), 6 + size - at(zh)
        canvas.dot(x, y, told, fill="rgb(0,90,156)", fill_opacity=0.65)
        names.setdefault((round(x / 4), round(y / 4)), []).append(cell["mask"])
    words = {
        (4 * x, 4 * y): here[0] if len(here) == 1 else f"{here[0]} and {len(here) - 1} more"
        for (x, y), here in names.items()
    }
    for x, y, word, anchor in _labels(words, margin, margin + size):
        canvas.text(x, y, word, text_anchor=anchor, font_size=11)
    canvas.text(margin + size / 2, size + 42, "effect in English, points", text_anchor="middle")
    canvas.text(
        14, size / 2, "effect in Chinese, points", text_anchor="middle", transform=f"rotate(-90 14 {size / 2:.0f})"
    )
    return canvas.done()


def layer_plot(masks: Sequence[Mapping[str, Any]]) -> str:
    """How many neurons each mask has in each layer, a darker square for more; numbers where there is room."""
    depth = max(int(mask["of_layers"]) for mask in masks)
    most = max(number for mask in masks for number in mask["layers"].values())
    left, right, row = 130, 560, 22
    side = (right - left) / depth
    canvas = _Canvas(720, row * (len(masks) + 1) + 26, "Neurons by layer")
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if side * step >= 20)
    for layer in range(0, depth, step):
        canvas.text(left + (layer + 0.5) * side, row - 7, str(layer), text_anchor="middle")
    for number, mask in enumerate(masks, 1):
        y = row * number
        canvas.text(left - 8, y + 15, mask["name"], text_anchor="end")
        canvas.rect(left, y, right - left, row - 2, fill="none", stroke="#ddd")
        for layer in range(depth):
            held = mask["layers"].get(str(layer), 0)
            if held:
                told = f"{mask['name']}, layer {layer}: {held}"
                canvas.rect(left + layer * side, y, side, row - 2, fill=tint(held, most), title=told)
                if side >= 24:
                    style = {"text_anchor": "middle", "fill": ink(held, most)}
                    canvas.text(left + (layer + 0.5) * side, y + 15, str(held), **style)
        idle = f", {mask['never_active']} never active" if mask["never_active"] else ""
        canvas.text(right + 8, y + 15, f"{mask['neurons']}{idle}")
    canvas.text((left + right) / 2, row * (len(masks) + 1) + 18, "layer", text_anchor="middle")
    return canvas.done()
