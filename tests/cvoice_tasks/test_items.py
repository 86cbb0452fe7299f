"""Items files: what is read, and every mistake in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvoice_foundation.errors import CVoiceError
from cvoice_tasks.items import Item, load_items, pair_of, read_items, twin_ids
from tests.items_for_tests import items_folder, twin_lines, write_items

LINE = twin_lines("integrity", 1, "en")[0]


def test_an_item_is_read_with_what_it_has(tmp_path: Path) -> None:
    path = write_items(
        tmp_path / "i.jsonl", [{key: LINE[key] for key in ("id", "value", "story", "aligned", "violating")}]
    )
    assert read_items(path) == [Item(LINE["id"], "integrity", LINE["story"], LINE["aligned"], LINE["violating"])]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "no items in it"),
        ([LINE, LINE], "line 2: the id 'integrity-0001a' stands twice"),
        ([LINE | {"value": "integritty"}], "line 1: there is no value 'integritty'; did you mean integrity?"),
        ([LINE | {"story": "  "}], 'line 1: "story" is missing or empty'),
        ([LINE | {"aligned": 3}], 'line 1: "aligned" is missing or empty'),
        ([LINE | {"question": ["?"]}], 'line 1: "question" is not text'),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, lines: list[Any], message: str) -> None:
    path = write_items(tmp_path / "i.jsonl", lines)
    with pytest.raises(CVoiceError) as caught:
        read_items(path)
    assert str(caught.value).startswith(f"{path}")
    assert message in str(caught.value)


def test_a_line_that_is_cut_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "i.jsonl"
    path.write_text(json.dumps(LINE) + "\n" + json.dumps(LINE)[:40], "utf-8")
    with pytest.raises(CVoiceError, match="line 2: not a JSON object"):
        read_items(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CVoiceError, match="not UTF-8"):
        read_items(path)


def test_folders_that_do_not_hold_items_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CVoiceError, match="no such folder"):
        load_items("evaluation", "zh", tmp_path / "none")
    with pytest.raises(CVoiceError, match="there is no evaluation.zh.jsonl in it$"):
        load_items("evaluation", "zh", tmp_path)
    items_folder(tmp_path)
    (tmp_path / "evaluation.zh.jsonl").unlink()
    with pytest.raises(CVoiceError, match="it has evaluation.en.jsonl, so use the en tasks"):
        load_items("evaluation", "zh", tmp_path)


@pytest.mark.parametrize(
    ("item_id", "pair"),
    [("integrity-0001a", "integrity-0001"), ("integrity-0001b", "integrity-0001"), ("q17", "q17"), ("alpha", "alpha")],
)
def test_the_pair_number_is_the_id_without_the_twin_letter(item_id: str, pair: str) -> None:
    assert pair_of(item_id) == pair


@given(st.text(min_size=1))
def test_taking_the_pair_number_twice_changes_nothing(item_id: str) -> None:
    assert pair_of(pair_of(item_id)) == pair_of(item_id) or pair_of(item_id) != item_id


def test_twins_are_both_there_and_changed_over() -> None:
    lines = twin_lines("integrity", 3, "en")
    items = [Item(**line) for line in lines]
    assert twin_ids(items) == {line["id"] for line in lines}
    assert twin_ids(items[1:]) == {line["id"] for line in lines[2:]}
    same_way_round = [items[0], Item(**lines[1] | {"aligned": lines[1]["violating"], "violating": lines[1]["aligned"]})]
    assert twin_ids(same_way_round) == set()


@pytest.mark.parametrize("split", ["evaluation", "activation"])
def test_the_bundled_items_are_whole(split: Any) -> None:
    """Shape and pairing; lengths and the rest are `cvoice audit`'s."""
    zh, en = (load_items(split, language) for language in ("zh", "en"))
    assert [(item.id, item.value) for item in zh] == [(item.id, item.value) for item in en]
    for items in (zh, en):
        assert twin_ids(items) == {item.id for item in items}
        assert all(item.topic and item.question for item in items)
        assert all(bool(item.rationale) == (split == "activation") for item in items)
        assert all(item.id.startswith(f"{item.value}-") for item in items)
