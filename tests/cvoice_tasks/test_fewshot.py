"""The order of few-shot examples: balanced at every length, nothing shown twice, no answer given away."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from cvoice_foundation.errors import CVoiceError
from cvoice_tasks.fewshot import load_shots, shots
from cvoice_tasks.items import Item, items_path, load_items, pair_of
from cvoice_tasks.prompts import letters_dataset, likert_dataset
from cvoice_tasks.values import VALUE_KEYS, VALUES
from tests.items_for_tests import fewshot_files, items_folder, twin_lines, write_items

LEVEL = {value.key: value.level for value in VALUES}


def items(pairs: int = 1, values: tuple[str, ...] = VALUE_KEYS) -> list[Item]:
    return [Item(**line) for value in values for line in twin_lines(value, pairs, "en", 2001)]


def test_every_item_once() -> None:
    for pairs in (1, 2, 3):
        given = items(pairs)
        assert Counter(shot.item.id for shot in shots(given)) == Counter(item.id for item in given)
    assert shots([]) == []


@pytest.mark.parametrize("count", range(1, 13))
def test_the_first_k_are_a_fair_prompt(count: int) -> None:
    first = shots(items())[:count]
    assert len({pair_of(shot.item.id) for shot in first}) == count, "no story and no act twice, no twin beside its twin"
    assert len({shot.item.value for shot in first}) == count
    assert abs(sum(shot.gold == 0 for shot in first) - count / 2) <= 0.5
    assert abs(sum(shot.item.id.endswith("a") for shot in first) - count / 2) <= 1
    levels = Counter(LEVEL[shot.item.value] for shot in first)
    assert max(levels.values()) - min(levels.get(level, 0) for level in set(LEVEL.values())) <= 1


def test_the_letter_follows_neither_a_short_period_nor_the_twin() -> None:
    golds = [shot.gold for shot in shots(items())[:12]]
    assert golds == [0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 0, 1]
    cells = Counter((shot.gold, shot.item.id[-1]) for shot in shots(items())[:12])
    assert all(cells[gold, twin] >= 2 for gold in (0, 1) for twin in "ab")


def test_the_other_twin_has_the_other_letter() -> None:
    order = shots(items())
    gold = {shot.item.id: shot.gold for shot in order}
    assert all(gold[f"{value}-2001a"] != gold[f"{value}-2001b"] for value in VALUE_KEYS)
    assert [pair_of(shot.item.id) for shot in order[:12]] == [pair_of(shot.item.id) for shot in order[12:]]


def test_documents_are_the_same_every_time_and_for_every_value(tmp_path: Path) -> None:
    folder = fewshot_files(items_folder(tmp_path))
    one, two = (letters_dataset(language="zh", value=v, data_dir=folder)["fewshot"] for v in ("harmony", "justice"))
    assert (
        one.to_list()
        == two.to_list()
        == letters_dataset(language="zh", value="harmony", data_dir=folder)["fewshot"].to_list()
    )
    assert len(one) == 24
    ratings = likert_dataset(language="zh", value="harmony", data_dir=folder)["fewshot"]
    assert ratings["rating"][:4] == [4, 0, 0, 4]


def test_a_folder_without_shots_takes_the_bundled_ones(tmp_path: Path) -> None:
    folder = items_folder(tmp_path)
    bundled = items_path("fewshot", "en")
    expected = shots(load_items("fewshot", "en")) if bundled.is_file() else []
    assert load_shots("en", folder, load_items("evaluation", "en", folder)) == expected


def test_a_shot_that_is_asked_too_is_refused(tmp_path: Path) -> None:
    folder = items_folder(tmp_path)
    write_items(folder / "fewshot.en.jsonl", twin_lines("justice", 1, "en", 2))
    with pytest.raises(CVoiceError, match="the story of 'justice-0002a' is among the evaluation items too"):
        letters_dataset(language="en", value="harmony", data_dir=folder)
