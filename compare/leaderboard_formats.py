"""Leaderboards as Markdown, CSV, JSON and HTML."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from compare.leaderboard import Board, Entry, Score, settings_line
from cvoice_tasks.values import VALUES

_ZH = {value.key: value.zh for value in VALUES} | {
    "overall": "总体",
    "zh": "中文",
    "en": "英文",
    "national": "国家",
    "societal": "社会",
    "individual": "个人",
}
_TITLES = {
    "letters": "Choice by letter 字母选择",
    "cloze": "Choice by text 文本似然",
    "gen": "Free answers 自由回答",
    "recog": "Recognition 价值识别",
    "likert": "Rating 量表评分",
}
_TABLES: tuple[tuple[str, ...], ...] = (("overall", "language", "level"), ("value",))
"""Two tables are narrower than one."""
_METHOD = (
    "Intervals at {level:.0%} over twin pairs. Ranks in brackets: those not excluded, for all models together, by "
    "paired sign-flip tests of all pairs of models after Holm."
)


def markdown(boards: Sequence[Board]) -> str:
    """Two tables a board, one with ranks and sums, one with the values; notes below."""
    lines: list[str] = []
    for board in boards:
        lines += [f"## {_TITLES[board.family]} (`{board.metric}`)", ""]
        for kinds in _TABLES:
            names = _columns(board, kinds)
            lines += ["| rank | model | mask | " + " | ".join(names) + " |", "|---|---|---|" + "--:|" * len(names)]
            for entry in board.entries:
                cells = [_rank(entry), _escape(_model(entry, board)), _escape(entry.model.mask_label)]
                cells += [_markdown_score(_score(entry, name)) for name in names]
                lines.append("| " + " | ".join(cells) + " |")
            lines.append("")
        lines += [
            f"- {_escape(_model(entry, board))}: {_escape(note)}" for entry in board.entries for note in entry.notes
        ]
        if any(entry.notes for entry in board.entries):
            lines.append("")
        lines += [_method(board), ""]
    return "\n".join(lines)


def csv_table(boards: Sequence[Board]) -> str:
    """One line a number."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["family", "metric", "model", "arguments", "mask", "mask_sha256", "mode", "rank", "rank_low", "rank_high"]
        + ["kind", "name", "documents", "pairs", "mean", "low", "high", "method", "notes", "source"]
    )
    for board in boards:
        for entry in board.entries:
            model = entry.model
            for score in entry.scores:
                writer.writerow(
                    [
                        board.family,
                        board.metric,
                        model.name,
                        model.arguments,
                        model.mask,
                        model.mask_sha256,
                        model.mask_mode,
                    ]
                    + [entry.rank, entry.rank_low, entry.rank_high, score.kind, score.name, score.documents]
                    + [score.clusters, repr(score.mean), repr(score.low), repr(score.high), score.method]
                    + ["; ".join(entry.notes), entry.source]
                )
    return file.getvalue()


def as_json(boards: Sequence[Board]) -> str:
    """Everything."""
    content = {"format": "cvoice-leaderboard", "version": 1, "boards": [asdict(board) for board in boards]}
    return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def html_page(boards: Sequence[Board]) -> str:
    """One self-contained page; every text from results is escaped."""
    parts = [
        "<!doctype html>\n<html lang='en'>\n<meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>C-voice leaderboard</title>\n<style>{_CSS}</style>\n<h1>C-voice leaderboard 价值排行</h1>",
    ]
    for board in boards:
        parts.append(f"<h2>{_TITLES[board.family]} <code>{board.metric}</code></h2>")
        parts += [_html_table(board, kinds) for kinds in _TABLES]
        notes = [(entry, note) for entry in board.entries for note in entry.notes]
        if notes:
            items = (f"<li>{html.escape(_model(entry, board))}: {html.escape(note)}</li>" for entry, note in notes)
            parts.append(f"<ul>{''.join(items)}</ul>")
        parts.append(f"<p>{html.escape(_method(board))}</p>")
    return "\n".join(parts) + "\n</html>\n"


FORMATS: dict[str, Callable[[Sequence[Board]], str]] = {
    "md": markdown,
    "csv": csv_table,
    "json": as_json,
    "html": html_page,
}

_CSS = """
body{font:16px/1.5 system-ui,sans-serif;margin:1.5rem auto;max-width:90rem;padding:0 1rem;color:#111;background:#fff}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .6rem;text-align:right;border-bottom:1px solid #ccc;white-space:nowrap}
tbody th,.model{text-align:left;font-weight:600;white-space:normal;overflow-wrap:anywhere;min-width:8rem}
th small{font-weight:400}td small{color:#555}table{margin-bottom:1rem}
.unranked td,.unranked th{color:#555;font-weight:400}
@media print{.wide{overflow:visible}table{font-size:8pt}}
"""


def _html_table(board: Board, kinds: Sequence[str]) -> str:
    names = _columns(board, kinds)
    heads = "".join(f"<th scope='col'>{_ZH.get(name, '')}<br>{html.escape(name)}</th>" for name in names)
    rows = []
    for entry in board.entries:
        mask = f"<br><small>{html.escape(entry.model.mask_label)}</small>" if entry.model.mask_label else ""
        cells = "".join(_html_score(_score(entry, name)) for name in names)
        rows.append(
            f"<tr{'' if entry.rank else ' class=unranked'}><td>{_rank(entry)}</td>"
            f"<th scope='row'>{html.escape(_model(entry, board))}{mask}</th>{cells}</tr>"
        )
    return (
        "<div class='wide'><table>\n<thead><tr><th scope='col'>排名<br>rank</th>"
        f"<th scope='col' class='model'>模型<br>model</th>{heads}</tr></thead>\n<tbody>\n"
        + "\n".join(rows)
        + "\n</tbody></table></div>"
    )


def _columns(board: Board, kinds: Sequence[str]) -> list[str]:
    """Names of all scores of these kinds that some model has, in the order of the first that has most."""
    longest = max(board.entries, key=lambda entry: len(entry.scores))
    names = [score.name for score in longest.scores if score.kind in kinds]
    for entry in board.entries:
        names += [score.name for score in entry.scores if score.kind in kinds and score.name not in names]
    return names


def _score(entry: Entry, name: str) -> Score | None:
    return next((score for score in entry.scores if score.name == name), None)


def _markdown_score(score: Score | None) -> str:
    return "" if score is None else f"{score.mean:.3f} [{score.low:.3f}, {score.high:.3f}]"


def _html_score(score: Score | None) -> str:
    if score is None:
        return "<td></td>"
    title = f"{score.documents} numbers of {score.clusters} pairs, {score.method}"
    return f"<td title='{title}'>{score.mean:.3f}<br><small>{score.low:.3f}–{score.high:.3f}</small></td>"


def _rank(entry: Entry) -> str:
    if entry.rank is None:
        return "–"
    return f"{entry.rank} [{entry.rank_low}–{entry.rank_high}]"


def _model(entry: Entry, board: Board) -> str:
    """The model, with its source where it stands twice."""
    twice = sum(other.model == entry.model for other in board.entries) > 1
    return entry.model.label + (f" ({entry.source})" if twice else "")


def _method(board: Board) -> str:
    shared = settings_line(board)
    return _METHOD.format(level=1 - board.alpha) + (f" Settings of the ranked: {shared}." if shared else "")


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")
