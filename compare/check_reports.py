"""A check's outcome for those who read it: a table, Markdown for a pull request, JUnit XML, GitHub annotations."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import asdict
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table

from compare.baseline import listed
from compare.regression import Check, Comparison, Flip, Gate
from compare.results import Model

_SHOWN_FLIPS = 20
_COLUMNS: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("value", "left"),
    ("acc before", "right"),
    ("after", "right"),
    ("points", "right"),
    ("p (Holm)", "right"),
    ("could see", "right"),
    ("verdict", "left"),
)


def percent(share: float, sign: str = "") -> str:
    """A share as a percentage with one decimal; ``sign`` is ``+`` to show it."""
    return f"{100 * share:{sign}.1f} %"


def points(interval: tuple[float, float]) -> str:
    """An interval of differences in percentage points."""
    return f"[{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]"


def sentence(comparison: Comparison, gate: Gate) -> str:
    """What was found, in one sentence that claims no more than the numbers do."""
    drop = -comparison.difference
    items = f"{comparison.documents} documents of {comparison.clusters} twin pairs"
    if comparison.verdict == "regressed":
        if drop > gate.max_drop and comparison.p_holm <= gate.alpha:
            return (
                f"acc fell by {percent(drop)} {points((comparison.low, comparison.high))}, more than "
                f"{percent(gate.max_drop)} (p = {comparison.p_holm:.2g} after Holm, {items})"
            )
        return (
            f"{_share(comparison.recovery)} of the baseline's acc is kept, at most {_share(comparison.recovery_high)}, "
            f"which is under {_share(gate.recovery)} ({items})"
        )
    if comparison.visible_drop is None:
        could = "no drop whatever could have been seen with so few pairs"
    else:
        could = f"could have seen a drop of {percent(comparison.visible_drop)} or more"
    if comparison.verdict == "held":
        return f"held: the drop is under {percent(comparison.largest_drop)} ({items}); {could}"
    return f"not shown to regress; {could}; a drop of {percent(comparison.largest_drop)} is not excluded ({items})"


def headline(check: Check) -> str:
    """The outcome in one line."""
    bad = [c for c in check.comparisons if c.verdict == "regressed"]
    unsure = [c for c in check.comparisons if c.verdict == "undecided"]
    if bad:
        return f"Regressed: {listed([_name(c) for c in bad])}"
    if check.gate.strict and unsure:
        return f"Undecided, which --strict fails: {listed([_name(c) for c in unsure])}"
    if unsure:
        return (
            f"Not shown to regress in {len(check.comparisons)} comparisons; "
            f"in {len(unsure)} of them a larger drop than allowed is not excluded"
        )
    return f"Held in all {len(check.comparisons)} comparisons"


def table(check: Check) -> Table:
    """The comparisons for a terminal."""
    made = Table(box=SIMPLE_HEAD)
    for title, justify in _COLUMNS:
        made.add_column(title, justify=justify, no_wrap=True)
    for c in check.comparisons:
        made.add_row(
            _name(c),
            f"{c.baseline:.3f}",
            f"{c.candidate:.3f}",
            f"{100 * c.difference:+.1f} {points((c.low, c.high))}",
            f"{c.p_holm:.3g}",
            _could_see(c),
            c.verdict,
        )
    return made


def markdown(check: Check) -> str:
    """A summary for a pull request, with all that is needed to repeat it."""
    gate = check.gate
    recovery = "" if gate.recovery is None else f", recovery at least {_share(gate.recovery)}"
    lines = [
        f"## {'✅' if check.passed else '❌'} Values: {_cell(headline(check))}",
        "",
        f"`{_cell(_model(check.candidate))}` against `{_cell(_model(check.baseline))}`; largest drop allowed "
        f"{percent(gate.max_drop)}, family-wise alpha {gate.alpha:g}{', strict' if gate.strict else ''}{recovery}.",
        "",
        "| read by | value | acc before | after | difference (points) | p (Holm) | could have seen | recovery | pairs "
        "| verdict |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    lines += [
        f"| {c.family} | {_cell(c.value)} | {c.baseline:.3f} | {c.candidate:.3f} "
        f"| {100 * c.difference:+.1f} {points((c.low, c.high))} | {c.p_holm:.3g} | {_could_see(c)} "
        f"| {_share(c.recovery)} | {c.clusters} | {c.verdict} |"
        for c in check.comparisons
    ]
    lines += ["", *(f"- **{_cell(_name(c))}**: {sentence(c, gate)}." for c in check.comparisons if _worth_a_line(c))]
    if check.flips:
        fell = sum(flip.after < flip.before for flip in check.flips)
        lines += ["", f"{fell} items fell and {len(check.flips) - fell} rose (share of option orders aligned):", ""]
        lines += [f"- `{_cell(_flip(flip))}`" for flip in check.flips[:_SHOWN_FLIPS]]
        if len(check.flips) > _SHOWN_FLIPS:
            lines.append(f"- and {len(check.flips) - _SHOWN_FLIPS} more")
    if check.remarks:
        lines += ["", *(f"> {_cell(remark)}" for remark in check.remarks)]
    lines += [
        "",
        "<details><summary>How it was measured</summary>",
        "",
        f"Differences are paired document by document and clustered by twin pair. Intervals at {1 - gate.alpha:.0%}: "
        f"{', '.join(sorted({c.method for c in check.comparisons}))}. p: one-sided sign flips of pairs, Holm over "
        f'{len(check.comparisons)} comparisons, seed {gate.seed}. "Could have seen": the drop that fails this check '
        "with 80 % power.",
        "",
        *(f"- `{_cell(name)}` items `{digest[:12]}`" for name, digest in sorted(check.items_sha256.items())),
        "",
        "</details>",
    ]
    return "\n".join(lines) + "\n"


def junit(check: Check) -> str:
    """JUnit XML: one test case a comparison."""
    bad = ("regressed", "undecided") if check.gate.strict else ("regressed",)
    failed = sum(c.verdict in bad for c in check.comparisons)
    suite = ET.Element(
        "testsuite",
        {"name": "cvoice check", "tests": str(len(check.comparisons)), "failures": str(failed), "errors": "0"},
    )
    for c in check.comparisons:
        case = ET.SubElement(suite, "testcase", {"classname": f"cvoice.{c.family}", "name": _xml(c.value)})
        told = sentence(c, check.gate)
        if c.verdict in bad:
            ET.SubElement(case, "failure", {"type": c.verdict, "message": _xml(told)})
        else:
            ET.SubElement(case, "system-out").text = _xml(told)
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def github_annotations(check: Check) -> str:
    """GitHub workflow commands: an error for what fails the check, a warning a remark, a notice if all passed."""
    lines = [
        f"::error title={_property(f'C-voice: {_name(c)} regressed')}::{_command(sentence(c, check.gate))}"
        for c in check.comparisons
        if c.verdict == "regressed"
    ]
    if not lines and not check.passed:
        lines.append(f"::error title=C-voice::{_command(headline(check))}")
    lines += [f"::warning title=C-voice::{_command(remark)}" for remark in check.remarks]
    if check.passed:
        lines.append(f"::notice title=C-voice::{_command(headline(check))}")
    return "".join(line + "\n" for line in lines)


def as_json(check: Check) -> str:
    """Everything, for programs."""
    content = asdict(check) | {"format": "cvoice-check", "version": 1, "passed": check.passed}
    return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1, sort_keys=True) + "\n"


def _name(comparison: Comparison) -> str:
    return comparison.value if comparison.family == "letters" else f"{comparison.family} {comparison.value}"


def _worth_a_line(comparison: Comparison) -> bool:
    return comparison.value == "overall" or comparison.verdict == "regressed"


def _share(share: float | None) -> str:
    return "-" if share is None else percent(share)


def _could_see(comparison: Comparison) -> str:
    """Empty where a drop was seen."""
    return "" if comparison.verdict == "regressed" else _share(comparison.visible_drop)


def _model(model: Model) -> str:
    return model.label + (f" (mask {model.mask_label})" if model.mask_label else "")


def _flip(flip: Flip) -> str:
    return f"{flip.family} {flip.language} {flip.item}: {flip.before:g} > {flip.after:g}"


def _cell(text: str) -> str:
    """Text that can neither end a table cell or code span nor start HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("`", "'").replace("\n", " ")


def _xml(text: str) -> str:
    """Text without the control characters that XML 1.0 has no way to write."""
    return re.sub(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]", "?", text)


def _command(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _command(text).replace(":", "%3A").replace(",", "%2C")
