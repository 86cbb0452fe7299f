"""The table of readings: costs counted at the model, choices and agreement by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lm_eval.models.huggingface import HFLM

from benchmarks import readings as script
from benchmarks.readings import BEGIN, END, Counter, Read, agreement, choices_of, markdown, put_into, read_all
from tests.lm_eval_runs import save_tiny_model


def sample(item: str, margin: Any, language: str = "en") -> dict[str, Any]:
    return {"doc": {"id": item, "language": language}, "margin": margin}


def test_a_storys_choice_is_the_sign_of_its_margin() -> None:
    letters = [
        sample("v-1a", 3.0),
        sample("v-1a", -1.0),
        sample("v-1b", -2.0),
        sample("v-1b", 0.5),
        sample("v-2a", 0.0),
    ]
    assert choices_of({"task": letters}) == (3, {("en", "v-1a"): 1, ("en", "v-1b"): 0})
    likert = [sample("v-1a", ("v-1a", True, 2.0)), sample("v-1a", ("v-1a", False, 3.0)), sample("v-1a", 1.0, "zh")]
    assert choices_of({"task": likert}) == (2, {("en", "v-1a"): 0, ("zh", "v-1a"): 1})


def read(choices: dict[str, int]) -> Read:
    return Read(4, 2.0, 10.0, (0.5, 0.1), {("en", item): choice for item, choice in choices.items()})


def test_agreement_is_over_stories_that_both_chose_on() -> None:
    one, two = read({"v-1a": 1, "v-1b": 0, "v-2a": 1}), read({"v-1a": 1, "v-1b": 1, "v-3a": 0})
    share, error, count = agreement(one, two)
    assert (share, count) == (0.5, 2)
    assert error == "N/A", "both stories are of one pair"
    assert agreement(one, read({}))[2] == 0


def test_the_tables_name_every_reading_once() -> None:
    text = markdown({"letters": read({"v-1a": 1}), "cloze": read({"v-1a": 1})}, "nothing")
    assert "| letters | base and chat models; the default | 2.00 | 10 | 4 | 0.500 ± 0.100 | – |" in text
    assert "1.000 (n = 1) |" in text


def test_the_document_keeps_all_but_the_tables(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", "utf-8")
    put_into(path, "new")
    assert path.read_text("utf-8") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    path.write_text("no marks", "utf-8")
    with pytest.raises(SystemExit, match="put the two marks where the tables belong"):
        put_into(path, "new")


def test_passes_are_counted_at_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = HFLM(pretrained=save_tiny_model(tmp_path), device="cpu", batch_size=1)
    counter = Counter(lm.model)
    lm._model_call(lm.tokenizer("one two", return_tensors="pt")["input_ids"].repeat(3, 1))
    tokens = len(lm.tokenizer("one two")["input_ids"])
    assert (counter.passes, counter.tokens) == (3, 3 * tokens)
    counter.close()
    lm._model_call(lm.tokenizer("one", return_tensors="pt")["input_ids"])
    assert counter.passes == 3
    few = [family for family in script.FAMILIES if family.folder in ("letters", "cloze", "likert")]
    monkeypatch.setattr(script, "FAMILIES", few)
    got = read_all(lm, ["en"], limit=2, num_fewshot=None, chat=False)
    assert {name: (row.items, row.passes) for name, row in got.items()} == {
        "letters": (12, 2.0),
        "cloze": (12, 2.0),
        "likert": (12, 2.0),
    }
