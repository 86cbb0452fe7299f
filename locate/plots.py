"""Plots of a selection, as PNG. Colours are told apart by people who see no red or green (viridis, Okabe-Ito)."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

from cvoice_foundation.errors import CVoiceError
from locate.null import Null
from locate.select import Selection
from locate.stability import Halves, Overlap, SweepPoint

_BLUE, _ORANGE = "#0072B2", "#D55E00"


def _drawn(draw: Callable[[Any, Any], None], size: tuple[float, float]) -> bytes:
    """Draws on new axes and returns a PNG; the same bytes for the same drawing."""
    try:
        import matplotlib
    except ImportError:
        raise CVoiceError("plots need matplotlib; install it with: pip install 'cvoice[report]'") from None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure, figure.add_subplot())
        buffer = io.BytesIO()
        # No version of the program in the file: the same numbers give the same bytes.
        figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def layers(found: Selection) -> bytes:
    """Neurons of each class in each layer, as a heat map."""
    depth = max(site.layer for site in found.sites) + 1
    counts = [[0] * depth for _ in found.classes]
    start = 0
    for site in found.sites:
        for row, number in enumerate(found.selected[:, start : start + site.width].sum(1).tolist()):
            counts[row][site.layer] += number
        start += site.width

    def draw(figure: Any, axes: Any) -> None:
        picture = axes.imshow(counts, aspect="auto", cmap="viridis", interpolation="nearest")
        axes.set_yticks(range(len(found.classes)), found.classes)
        axes.set_xlabel("layer")
        axes.locator_params(axis="x", integer=True)
        figure.colorbar(picture, label="neurons")

    return _drawn(draw, (8, 0.28 * len(found.classes) + 1.4))


def null(result: Null) -> bytes:
    """Histogram of the permutations, and the observed number."""

    def draw(_: Any, axes: Any) -> None:
        width = max(1, (max(result.permuted) - min(result.permuted)) // 40)  # whole neurons
        edges = range(min(result.permuted), max(result.permuted) + 2 * width, width)
        axes.hist(result.permuted, bins=list(edges), align="left", color="#999999", label="labels at random")
        axes.locator_params(integer=True)
        axes.axvline(result.observed, color=_ORANGE, linewidth=2.5, label=f"observed: {result.observed}")
        axes.set_xlabel("neurons that reach the cut-off")
        axes.set_ylabel("permutations")
        axes.legend(frameon=False)

    return _drawn(draw, (8, 3))


def stability(halves: Sequence[Halves]) -> bytes:
    """Split-half Jaccard index of each class, with its range and what chance gives."""

    def draw(_: Any, axes: Any) -> None:
        for row, half in enumerate(halves):
            if half.mean is None:
                continue
            axes.plot([half.lowest, half.highest], [row, row], color=_BLUE, linewidth=2, alpha=0.5)
            axes.plot(half.mean, row, "o", color=_BLUE, label=None if row else "two halves")
            axes.plot(half.by_chance, row, "x", color=_ORANGE, label=None if row else "by chance")
        axes.set_yticks(range(len(halves)), [half.name for half in halves])
        axes.invert_yaxis()
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("Jaccard index")
        axes.legend(frameon=False, loc="lower right")

    return _drawn(draw, (8, 0.28 * len(halves) + 1.2))


def sweep(points: Sequence[SweepPoint]) -> bytes:
    """Neurons and stability against the share kept, a line a quantile."""

    def draw(figure: Any, axes: Any) -> None:
        right = figure.add_subplot(1, 2, 2)
        axes.set_subplotspec(right.get_subplotspec().get_gridspec()[0, 0])
        rates = sorted({point.quantile for point in points}, key=lambda rate: rate or 0)
        colours = ["#440154", "#3b528b", "#21918c", "#5ec962", "#b8a70a"]
        for colour, rate in zip(colours, rates, strict=False):
            line = [point for point in points if point.quantile == rate]
            at = [point.top_rate for point in line]
            label = None if rate is None else f"quantile {rate:g}"
            sizes = [sum(point.neurons.values()) / len(point.neurons) for point in line]
            axes.plot(at, sizes, "o-", color=colour, label=label)
            stable = [float("nan") if point.stability is None else point.stability for point in line]
            right.plot(at, stable, "o-", color=colour, label=label)
        axes.set_ylabel("neurons a class, mean")
        right.set_ylabel("split-half Jaccard index, mean")
        right.set_ylim(-0.02, 1.02)
        for part in (axes, right):
            part.set_xscale("log")
            part.set_xlim(0.8 * min(point.top_rate for point in points), 1.25 * max(point.top_rate for point in points))
            part.set_xlabel("top_rate")
        if rates != [None]:
            right.legend(frameon=False)

    return _drawn(draw, (8.5, 3.4))


def overlap(names: Sequence[str], between: Sequence[Sequence[Overlap]]) -> bytes:
    """Jaccard index of every two classes, as a heat map with its numbers."""
    indices = [[float("nan") if cell.jaccard is None else cell.jaccard for cell in row] for row in between]

    def draw(figure: Any, axes: Any) -> None:
        picture = axes.imshow(indices, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
        axes.set_yticks(range(len(names)), names)
        if len(names) <= 12:
            for row, line in enumerate(indices):
                for column, value in enumerate(line):
                    text = "" if value != value else f"{value:.2f}".removeprefix("0")
                    colour = "black" if value > 0.6 else "white"
                    axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
        figure.colorbar(picture, label="Jaccard index", shrink=0.8)

    return _drawn(draw, (7.5, 6.2))
