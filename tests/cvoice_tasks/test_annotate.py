"""Blind sheets: nothing tells the answer, twins are apart, and the key is right."""

from __future__ import annotations

import csv
from pathlib import Path

from cvoice_tasks.annotate import write_sheets
from cvoice_tasks.items import load_items, pair_of
from tests.items_for_tests import items_folder, twin_lines, write_items


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_sheets_are_blind_and_the_key_opens_them(tmp_path: Path) -> None:
    folder = items_folder(tmp_path / "items", pairs=5)
    written = write_sheets(tmp_path / "out", "zh", ("integrity", "justice"), 3, folder)
    items = {item.id: item for item in load_items("evaluation", "zh", folder)}
    key = {row["number"]: row for row in rows(written[-1])}
    assert len(key) == 20
    for path in written[:-1]:
        sheet = rows(path)
        assert path.read_bytes().startswith(b"\xef\xbb\xbf")
        numbers = [pair_of(key[row["number"]]["id"]) for row in sheet]
        assert len(numbers) == len(set(numbers)) == 10
        for row in sheet:
            answer = key[row["number"]]
            item = items[answer["id"]]
            assert (row["story"], row[f"act_{answer['act']}"]) == (item.story, item.aligned)
            assert answer["value"] == item.value
            assert row["answer_act"] == row["answer_value"] == row["remark"] == ""
            assert set(row) == {
                *("number", "story", "question", "act_1", "act_2", "answer_act", "answer_value", "remark")
            }
    assert {row["act"] for row in key.values()} == {"1", "2"}


def test_the_same_seed_gives_the_same_bytes_and_formulas_are_guarded(tmp_path: Path) -> None:
    lines = twin_lines("integrity", 2, "en")
    lines[0]["story"] = "=1+1 " + lines[0]["story"]
    (tmp_path / "items").mkdir()
    write_items(tmp_path / "items" / "evaluation.en.jsonl", lines)
    one, two = (write_sheets(tmp_path / name, "en", folder=tmp_path / "items") for name in ("one", "two"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    stories = [row["story"] for path in one[:-1] for row in rows(path)]
    assert sum(story.startswith("'=1+1") for story in stories) == 1
