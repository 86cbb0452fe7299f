"""Small items files that tests write, so that nothing hangs on the bundled stories."""

from __future__ import annotations

import json
from pathlib import Path

from cvoice_tasks.values import VALUE_KEYS, Language

_ACTS: dict[str, tuple[str, str]] = {
    "en": ("Takes the early train to the coast.", "Takes the late train to the hills."),
    "zh": ("坐早班火车去海边看望老师。", "坐晚班火车去山里看望同学。"),
}
_STORY: dict[str, str] = {
    "en": "Number {n}, story {twin}: Mei has one free day and two tickets, and {twin} waits for her.",
    "zh": "第{n}个，故事{twin}：小梅只有一天空闲，手里有两张票，{twin}在等她。",
}


def twin_lines(value: str, pairs: int, language: Language, start: int = 1) -> list[dict[str, str]]:
    """``pairs`` twin pairs of a value."""
    lines = []
    for number in range(start, start + pairs):
        acts = tuple(f"{act[:-1]} {value} {number}{act[-1]}" for act in _ACTS[language])
        for twin, (aligned, violating) in (("a", acts), ("b", acts[::-1])):
            lines.append(
                {
                    "id": f"{value}-{number:04d}{twin}",
                    "value": value,
                    "topic": f"train {number}",
                    "story": _STORY[language].format(n=f"{value} {number}", twin=twin * 3),
                    "question": "What does Mei do?" if language == "en" else "小梅会怎么做？",
                    "aligned": aligned,
                    "violating": violating,
                }
            )
    return lines


def write_items(path: Path, lines: list[dict[str, str]]) -> Path:
    """Writes an items file."""
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    return path


def items_folder(folder: Path, pairs: int = 2, values: tuple[str, ...] = VALUE_KEYS) -> Path:
    """A ``data_dir`` with evaluation and activation items of both languages."""
    folder.mkdir(parents=True, exist_ok=True)
    for language in ("zh", "en"):
        for split, start in (("evaluation", 1), ("activation", 1001)):
            lines = [line for value in values for line in twin_lines(value, pairs, language, start)]
            write_items(folder / f"{split}.{language}.jsonl", lines)
    return folder


def fewshot_files(folder: Path, pairs: int = 1) -> Path:
    """Adds few-shot items of every value, in both languages, to a ``data_dir``."""
    for language in ("zh", "en"):
        lines = [line for value in VALUE_KEYS for line in twin_lines(value, pairs, language, 2001)]
        write_items(folder / f"fewshot.{language}.jsonl", lines)
    return folder
