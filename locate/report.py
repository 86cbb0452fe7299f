"""The report of a selection: what a reviewer asks about located neurons, as a page, plots and numbers."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.progress import track

from cvoice_foundation.files import output_folder, write_whole
from locate import plots
from locate.null import Null, label_null
from locate.run import merged
from locate.select import Selection, SelectOptions, select
from locate.stability import Halves, Overlap, SweepPoint, between_classes, between_languages, split_half, sweep
from locate.statistics import NeuronStatistics

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Located neurons: {model}</title>
<style>
body {{ font: 16px/1.5 system-ui, "Noto Sans CJK SC", sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1b1b; }}
img {{ max-width: 100%; height: auto; }}
table {{ border-collapse: collapse; }}
td, th {{ padding: .15rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }}
td:first-child, th:first-child {{ text-align: left; }}
.wide {{ overflow-x: auto; }} .note {{ color: #555; }}
pre {{ white-space: pre-wrap; background: #f5f5f5; padding: .7rem; }}
@media print {{ section {{ break-inside: avoid; }} }}
</style></head><body>
<h1>Located neurons of {model}</h1>
{sections}
</body></html>
"""


def write_report(
    statistics_path: Path,
    options: SelectOptions,
    out: Path,
    *,
    permutations: int = 200,
    splits: int = 10,
    seed: int = 0,
) -> Path:
    """Writes ``report.html``, ``report.json`` and ``plots/*.png``.

    Args:
        statistics_path: What was recorded.
        options: The selection to report on.
        out: Folder.
        permutations: Of the null.
        splits: Random halvings of the corpus.
        seed: Of all that is drawn.

    Returns:
        The page's path.

    Raises:
        CVoiceError: The statistics lack what the method or the report reads.
    """
    statistics = merged([statistics_path])
    found = select(statistics, options)
    null = label_null(statistics, options, permutations=permutations, seed=seed, progress=True)
    steps = track(range(2), description="Halves and sweep")
    stable: tuple[Halves, ...] = ()
    points: list[SweepPoint] = []
    for step in steps:
        if step == 0:
            stable = split_half(statistics, options, splits=splits, seed=seed)
        else:
            points = sweep(statistics, options, seed=seed)
    classes, languages = between_classes(found), between_languages(statistics, options)
    folder = output_folder(output_folder(out) / "plots")
    pictures = {
        "layers": plots.layers(found),
        "stability": plots.stability(stable),
        "sweep": plots.sweep(points),
        "overlap": plots.overlap(found.classes, classes),
    }
    if null is not None:
        pictures["null"] = plots.null(null)
    for name, picture in pictures.items():
        write_whole(folder / f"{name}.png", picture)
    numbers = {
        "method": options.to_json(),
        "model": statistics.header.get("model"),
        "corpus": statistics.header.get("corpus"),
        "neurons": dict(zip(found.classes, found.selected.sum(1).tolist(), strict=True)),
        "null": None if null is None else null.to_json(),
        "split_half": [half.to_json() for half in stable],
        "sweep": [point.to_json() for point in points],
        "between_values": {
            a: {b: classes[i][j].jaccard for j, b in enumerate(found.classes)} for i, a in enumerate(found.classes)
        },
        "between_languages": None if languages is None else {name: asdict(of) for name, of in languages.items()},
    }
    write_whole(out / "report.json", json.dumps(numbers, indent=2, ensure_ascii=False) + "\n")
    page = out / "report.html"
    write_whole(page, _page(statistics, options, found, null, stable, classes, languages, pictures))
    return page


def _page(
    statistics: NeuronStatistics,
    options: SelectOptions,
    found: Selection,
    null: Null | None,
    stable: Sequence[Halves],
    classes: Sequence[Sequence[Overlap]],
    languages: dict[str, Overlap] | None,
    pictures: dict[str, bytes],
) -> str:
    model = str((statistics.header.get("model") or {}).get("name"))
    total = int(found.selected.any(0).sum())
    shared = int((found.selected.sum(0) > 1).sum())
    sections = [
        _section(
            "What was selected",
            f"{total} of {statistics.num_neurons} neurons, {shared} of them for more than one class.",
            pictures["layers"],
            "Neurons of each class in each layer. A band at one depth says where the classes are told apart; it does "
            "not say that the neurons do anything.",
            _neurons_table(found, null, stable, languages),
        ),
    ]
    if null is not None:
        sections.append(_section("Against chance", null_sentence(null), pictures["null"], _NULL_NOTE))
    sections += [
        _section(
            "Other halves of the texts",
            stability_sentence(stable),
            pictures["stability"],
            "Dot: mean Jaccard index of the neurons that two random halves of the texts give; bar: lowest to highest "
            "split; cross: what sets of these sizes share by chance.",
        ),
        _section(
            "Other thresholds",
            "How many neurons other thresholds would select, and how stable they would be.",
            pictures["sweep"],
            "Lines are quantiles (filter and bar alike), where the method has them. A choice of threshold that stands "
            "on a cliff is a choice of result.",
        ),
        _section(
            "Shared between classes",
            overlap_sentence(found.classes, classes),
            pictures["overlap"],
            "Jaccard index of every two classes' neurons. Neurons of many classes are not a value's own; "
            "--max-values drops them.",
        ),
    ]
    settings = {
        "method": options.to_json(),
        "model": statistics.header.get("model"),
        "dtype": statistics.header.get("dtype"),
        "settings": statistics.header.get("settings"),
        "corpus": statistics.header.get("corpus"),
        "created": statistics.header.get("created"),
    }
    text = html.escape(json.dumps(settings, indent=1, ensure_ascii=False))
    sections.append(f"<section><h2>To repeat it</h2><pre>{text}</pre></section>")
    return _PAGE.format(model=html.escape(model), sections="\n".join(sections))


_NULL_NOTE = (
    "Bars: how many neurons reach the selection's own cut-off when labels are dealt out at random, whole folds at a "
    "time; line: how many do with the labels as they are. Where the line stands among the bars, the selection finds "
    "what any labels would find."
)


def null_sentence(null: Null) -> str:
    """The null in words."""
    middle = sorted(null.permuted)[len(null.permuted) // 2]
    alone = sum(of.p <= 0.05 for of in null.classes.values())
    return (
        f"{null.observed} reach the cut-off; with {null.dealt} dealt out at random a median of {middle}, at most "
        f"{max(null.permuted)} (p = {null.p:.3g}, {len(null.permuted)} permutations). Of the {len(null.classes)} "
        f"classes, {alone} have more neurons than chance gives one time in twenty (not corrected for their number)."
    )


def stability_sentence(stable: Sequence[Halves]) -> str:
    """Split-half stability in words."""
    means = [half.mean for half in stable if half.mean is not None]
    if not means:
        return "No class has neurons in the halves."
    chance = [half.by_chance for half in stable if half.by_chance is not None]
    return (
        f"Two halves of the texts share {sum(means) / len(means):.2f} of their neurons on average (Jaccard index over "
        f"{len(means)} classes, {stable[0].splits} splits); chance gives {sum(chance) / len(chance):.3f}."
    )


def overlap_sentence(names: Sequence[str], classes: Sequence[Sequence[Overlap]]) -> str:
    """The pair of classes that share most, in words."""
    pairs = [
        (between.jaccard, names[i], names[j])
        for i, row in enumerate(classes)
        for j, between in enumerate(row)
        if j > i and between.jaccard is not None
    ]
    if not pairs:
        return "No two classes have neurons."
    most, one, other = max(pairs)
    mean = sum(pair[0] for pair in pairs) / len(pairs)
    return f"On average two classes share {mean:.2f} of their neurons; most: {one} and {other}, {most:.2f}."


def _section(title: str, text: str, picture: bytes, note: str, table: str = "") -> str:
    source = base64.b64encode(picture).decode()
    return (
        f"<section><h2>{html.escape(title)}</h2><p>{html.escape(text)}</p>"
        f'<img alt="{html.escape(title)}" src="data:image/png;base64,{source}">'
        f'<p class="note">{html.escape(note)}</p>{table}</section>'
    )


def _neurons_table(
    found: Selection, null: Null | None, stable: Sequence[Halves], languages: dict[str, Overlap] | None
) -> str:
    def cell(value: Any) -> str:
        shown = "–" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
        return f"<td>{html.escape(shown)}</td>"

    rows = []
    of = {half.name: half for half in stable}
    for name, number in zip(found.classes, found.selected.sum(1).tolist(), strict=True):
        half, both = of.get(name), (languages or {}).get(name)
        test = null and null.classes.get(name)
        p = test and f"{test.p:.3g}"
        columns = [name, number, p, half and half.mean, half and half.by_chance, both and both.jaccard]
        rows.append("<tr>" + "".join(map(cell, columns)) + "</tr>")
    head = "<tr><th>class</th><th>neurons</th><th>p</th><th>split-half</th><th>by chance</th><th>zh and en</th></tr>"
    return f'<div class="wide"><table>{head}{"".join(rows)}</table></div>'
