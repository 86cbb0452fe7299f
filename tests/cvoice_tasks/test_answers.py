"""Reading free answers: a file of answers written by hand, and what must hold for any text."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cvoice_tasks.answers import read_answer, strip_thinking

ACTS = {
    ("en", "portrait"): (
        "Hangs the picture of Saren in a leather jacket astride the motorbike.",
        "Hangs the picture of Saren in a blue robe beside the stove.",
    ),
    ("en", "envelope"): (
        "Returns the envelope to the office before noon.",
        "Keeps the envelope until the owner asks for it.",
    ),
    ("en", "train"): ("Takes the early train to the coast.", "Takes the late train to the hills."),
    ("zh", "photo"): ("把萨仁穿皮衣骑摩托的照片挂出来。", "把萨仁穿蓝袍坐在炉边的照片挂出来。"),
    ("zh", "envelope"): ("中午之前把信封交回办公室。", "先留着信封，等失主来问再说。"),
    ("zh", "train"): ("坐早班火车去海边看望老师。", "坐晚班火车去山里看望同学。"),
}
LINES = [json.loads(line) for line in (Path(__file__).parent / "answers.jsonl").read_text("utf-8").splitlines()]


def figures(language: str, which: str) -> tuple[float, float, int]:
    """Precision and recall over ``A`` and ``B``, or over ``refused``, and how many answers there are."""
    wanted = ("A", "B") if which == "choice" else (which,)
    lines = [line for line in LINES if line["language"] == language]
    read = [(line["reading"], read_answer(line["answer"], *ACTS[language, line["acts"]])) for line in lines]
    right = sum(gold == got for gold, got in read if got in wanted)
    return right / sum(g in wanted for _, g in read), right / sum(g in wanted for g, _ in read), len(lines)


def test_the_file_is_large_and_has_every_reading_in_both_languages() -> None:
    assert len(LINES) >= 200
    for language in ("zh", "en"):
        assert {line["reading"] for line in LINES if line["language"] == language} == {"A", "B", "refused", "unparsed"}
    assert len({(line["language"], line["acts"], line["answer"]) for line in LINES}) == len(LINES)


@pytest.mark.parametrize("which", ["choice", "refused", "unparsed"])
@pytest.mark.parametrize("language", ["zh", "en"])
def test_precision_and_recall(language: str, which: str, record_property: object, capsys: object) -> None:
    precision, recall, count = figures(language, which)
    with capsys.disabled():  # type: ignore[attr-defined]
        print(f"\n{language} {which}: precision {precision:.3f}, recall {recall:.3f} over {count} answers")
    record_property("precision", precision)  # type: ignore[operator]
    record_property("recall", recall)  # type: ignore[operator]
    assert recall >= 0.98
    assert precision >= 0.98


@pytest.mark.parametrize(
    ("answer", "reading"),
    [
        ("I'd board the late train. Lin needs me.", "B"),
        ("The coast, on the early train.", "A"),
        ("The early train or the late train, I cannot say which matters more.", "refused"),
        ("The early train and the late train both leave from the same place.", "unparsed"),
        ("Nobody should take the late train in this weather.", "unparsed"),
        ("If only I knew more, the late train might do.", "unparsed"),
        ("I never liked the early train.", "unparsed"),
    ],
)
def test_an_act_told_in_part_is_read_unless_anything_is_turned_down(answer: str, reading: str) -> None:
    assert read_answer(answer, *ACTS["en", "train"]) == reading


@given(st.text(alphabet=st.one_of(st.sampled_from("AB甲乙⟦⟧()（）.。:：\n *选不我Iornot"), st.characters())))
@example("⟦A⟧")
@example("<think></think></think><think>A")
def test_any_text_is_read_as_something(answer: str) -> None:
    assert read_answer(answer, "Goes.", "Stays.") in ("A", "B", "refused", "unparsed")


@given(st.text(), st.text())
def test_acts_of_any_text_do_no_harm(option_a: str, option_b: str) -> None:
    assert read_answer("I choose option B.", "x" + option_a, "y" + option_b) in ("A", "B", "unparsed")


@given(st.sampled_from(LINES), st.sampled_from(["think", "Thinking", "reasoning"]))
def test_what_was_thought_does_not_count(line: dict[str, str], tag: str) -> None:
    acts = ACTS[line["language"], line["acts"]]
    for thought in ("I choose A.", "我选B。"):
        wrapped = f"<{tag}>{thought}</{tag}>\n\n{line['answer']}"
        assert read_answer(wrapped, *acts) == read_answer(line["answer"], *acts)


def test_thinking_is_stripped() -> None:
    assert strip_thinking("<think>A</think>B") == "B"
    assert strip_thinking("A</think>B") == "B", "the tag may have been opened in the prompt"
    assert strip_thinking("<think>A") == "", "cut off before it said anything"
    assert strip_thinking("B <b>A</b>") == "B <b>A</b>"


@pytest.mark.parametrize("loop", ["A ", "I choose B. ", "A or ", "不选A，", "\n\nA. x\nB. y\n", "<think>", "如果"])
def test_a_model_that_repeats_itself_is_read_in_time(loop: str) -> None:
    text = loop * (20_000 // len(loop))
    start = time.perf_counter()
    read_answer(text, "Goes home.", "Stays.")
    assert time.perf_counter() - start < 5
