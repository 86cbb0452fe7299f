"""Blind readings: agreement by hand, wrong lines refused with their number, and the bundled ones cover the items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cvoice_foundation.errors import CVoiceError
from cvoice_tasks.checks import Reading, agreements, read_checks, table
from cvoice_tasks.items import items_path, load_items


def reading(item: str, agrees: bool, value: str, **more: Any) -> dict[str, Any]:
    line = {"id": item, "language": "zh", "split": "evaluation", "reader": "A", "reading": 1}
    return line | {"act_agrees": agrees, "value": value} | more


LINES = [
    reading("justice-0001a", True, "justice"),
    reading("justice-0001b", True, "equality", second="justice"),
    reading("freedom-0001a", False, "freedom", outcome="mended"),
    reading("freedom-0001b", True, "civility"),
    # A later reading of a mended text is no first answer.
    reading("freedom-0001a", True, "freedom", reading=2),
    reading("justice-0001a", True, "justice", reader="B", reading=2, selects=False),
    reading("justice-0001b", False, "equality", reader="B", reading=2, selects=False),
]


def write(folder: Path, lines: list[dict[str, Any]]) -> Path:
    (folder / "checks.pilot.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return folder


def test_agreement_is_that_by_hand(tmp_path: Path) -> None:
    found = agreements(read_checks(write(tmp_path, LINES)))
    assert [(one.name, one.against) for one in found] == [
        ("evaluation", "writers"),
        ("second readers", "writers"),
        ("second readers", "first readers"),
    ]
    first, second, between = found
    assert (first.texts, first.act, first.value, first.first_or_second) == (4, 3, 2, 3)
    # Written a b a b, read a b b b: observed 3/4, by chance 2/4 * 1/4 + 2/4 * 3/4 = 1/2.
    assert first.act_kappa == pytest.approx((0.75 - 0.5) / 0.5)
    # Written j j f f, read j e f c: observed 2/4, by chance 2/4 * 1/4 + 2/4 * 1/4 = 1/4.
    assert first.value_kappa == pytest.approx((0.5 - 0.25) / 0.75)
    assert first.outcomes == {"kept": 3, "mended": 1}
    assert (second.texts, second.act, second.value, second.first_or_second) == (2, 1, 1, 1)
    assert (between.texts, between.act, between.value, between.first_or_second) == (2, 1, 2, None)
    assert "| evaluation | zh | writers | 4 | 3 | 0.5000 | 2 | 0.3333 | 3 | 3 kept, 1 mended |" in table(found)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"value": "honesty"}, "wrong: value"),
        ({"language": "fr"}, "wrong: language"),
        ({"id": "justice-0001"}, "wrong: id"),
        ({"act_agrees": "yes"}, "wrong: act_agrees"),
        ({"outcome": "lost"}, "wrong: outcome"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_is_no_reading_is_refused_with_its_line(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(CVoiceError, match=f"line 2: not a reading.*{told}"):
        read_checks(write(tmp_path, [LINES[0], LINES[1] | change]))


def test_a_folder_without_checks_is_told(tmp_path: Path) -> None:
    with pytest.raises(CVoiceError, match=r"no checks\.\*\.jsonl"):
        read_checks(tmp_path)


@pytest.fixture(scope="module")
def bundled() -> list[Reading]:
    return read_checks()


@pytest.mark.parametrize("split", ["evaluation", "activation", "fewshot"])
@pytest.mark.parametrize("language", ["zh", "en"])
def test_every_bundled_item_was_read_blind_and_its_last_reading_agrees(
    bundled: list[Reading], split: Any, language: Any
) -> None:
    last: dict[str, Reading] = {}
    for one in bundled:
        if one.language == language and one.selects and one.outcome not in ("dropped", "spare"):
            last[one.id] = max(one, last.get(one.id, one), key=lambda reading: reading.reading)
    for item in load_items(split, language):
        assert last[item.id].act_agrees, item.id
        assert item.value in (last[item.id].value, last[item.id].second), item.id


def test_the_card_shows_the_table(bundled: list[Reading]) -> None:
    card = items_path("evaluation", "zh").with_name("README.md").read_text("utf-8")
    assert table(agreements(bundled)) in card


def test_second_readers_have_read_a_tenth_of_the_items(bundled: list[Reading]) -> None:
    for split in ("evaluation", "activation"):
        for language in ("zh", "en"):
            read = {one.id for one in bundled if not one.selects and (one.split, one.language) == (split, language)}
            items = {item.id for item in load_items(split, language)}  # type: ignore[arg-type]
            assert read <= items
            assert len(read) >= len(items) / 10
