"""Items as documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from cvoice_foundation.errors import CVoiceError
from cvoice_tasks.items import Item
from cvoice_tasks.prompts import letter_documents, letters_dataset, own_act_question
from cvoice_tasks.values import Language
from tests.items_for_tests import items_folder, twin_lines


@pytest.mark.parametrize(
    ("question", "language", "expected"),
    [
        ("What does Xiulan do?", "en", "In Xiulan's place, what would you do?"),
        ("What does Dr. Okafor do?", "en", "In Dr. Okafor's place, what would you do?"),
        ("What will Old Zhang do?", "en", "In Old Zhang's place, what would you do?"),
        ("Which way does it go?", "en", "In this person's place, what would you do?"),
        ("", "en", "In this person's place, what would you do?"),
        ("秀兰会怎么做？", "zh", "如果你是秀兰，你会怎么做？"),
        ("老张应该怎么办？", "zh", "如果你是老张，你会怎么做？"),
        ("会议怎么开？", "zh", "如果你是当事人，你会怎么做？"),
        ("", "zh", "如果你是当事人，你会怎么做？"),
    ],
)
def test_the_prompt_asks_for_the_readers_own_act(question: str, language: Language, expected: str) -> None:
    assert own_act_question(question, language) == expected


def test_every_item_is_shown_in_both_orders() -> None:
    items = [Item(**line) for line in twin_lines("integrity", 1, "en")]
    documents = letter_documents(items, "en")
    assert [(d["id"], d["pair"], d["gold"], d["twin"]) for d in documents] == [
        ("integrity-0001a", "integrity-0001", 0, True),
        ("integrity-0001a", "integrity-0001", 1, True),
        ("integrity-0001b", "integrity-0001", 0, True),
        ("integrity-0001b", "integrity-0001", 1, True),
    ]
    for document in documents:
        item = items["ab".index(document["id"][-1])]
        assert (document["option_a"], document["option_b"])[document["gold"]] == item.aligned
        assert (document["option_a"], document["option_b"])[1 - document["gold"]] == item.violating


def test_documents_of_one_value_only_and_a_missing_value_is_told(tmp_path: Path) -> None:
    folder = items_folder(tmp_path, pairs=2, values=("integrity", "freedom"))
    documents = letters_dataset(language="zh", value="freedom", data_dir=str(folder), mask="x", version=1)["test"]
    assert len(documents) == 8
    assert set(documents["value"]) == {"freedom"}
    with pytest.raises(
        CVoiceError, match="no items of the value 'harmony'; run --tasks cvoice_zh_freedom,cvoice_zh_integrity"
    ):
        letters_dataset(language="zh", value="harmony", data_dir=str(folder))
