"""Why the prompts letter their options with A and B behind one space: on tokenizers of every kind, trained here."""

from __future__ import annotations

import pytest

from benchmarks.labels import CUES, GPT4, LABELS, Encode, corpus, cost, table, train_all
from tests.items_for_tests import twin_lines

QWEN = "byte-level BPE, Qwen's and GPT-4's cut"


@pytest.fixture(scope="module")
def encoders() -> dict[str, Encode]:
    stories = [line["story"] for language in ("zh", "en") for line in twin_lines("harmony", 60, language)]  # type: ignore[arg-type]
    return train_all(corpus(stories), 900)


def test_behind_a_space_letters_are_one_pass_everywhere_and_one_token_in_every_bpe(encoders: dict[str, Encode]) -> None:
    for name, encode in encoders.items():
        for cue in CUES.values():
            got = cost(encode, cue, " ", LABELS["A/B"])
            assert (got.apart, got.forward_passes) == (True, 1)
            # Over so few texts Unigram may keep the space for itself.
            assert got.tokens == (1, 1) or ("Unigram" in name and got.tokens == (2, 2))


def test_without_the_space_some_tokenizers_leave_nothing_to_score(encoders: dict[str, Encode]) -> None:
    """The colon and the letter melt into one token, so that behind the cue's own number of tokens there is none."""
    for cue in CUES.values():
        assert cost(encoders[QWEN], cue, "", LABELS["A/B"]) == ((0, 0), False, 1)


def test_stems_cost_at_least_as_much_as_letters(encoders: dict[str, Encode]) -> None:
    for encode in encoders.values():
        for cue in CUES.values():
            letters, stems = (cost(encode, cue, " ", LABELS[style]) for style in ("A/B", "甲/乙"))
            assert sum(stems.tokens) >= sum(letters.tokens)
    assert any(sum(cost(encode, "答案：", " ", LABELS["甲/乙"]).tokens) > 2 for encode in encoders.values())


def test_five_digits_are_one_pass_even_where_the_space_is_a_token_of_its_own(encoders: dict[str, Encode]) -> None:
    for encode in encoders.values():
        for cue in CUES.values():
            got = cost(encode, cue, " ", LABELS["0-4"])
            assert (got.apart, got.forward_passes) == (True, 1)
    assert cost(encoders[QWEN], "答案：", " ", LABELS["0-4"]).tokens == (2, 2, 2, 2, 2)


def test_behind_the_space_the_whole_of_an_act_is_scored(encoders: dict[str, Encode]) -> None:
    """Cloze: lm-eval takes the tokens behind as many as the cue has alone for the act's."""
    for language, cue in CUES.items():
        acts = [line["aligned"] for line in twin_lines("harmony", 3, language)]  # type: ignore[arg-type]
        assert all(cost(encode, cue, " ", acts).apart for encode in encoders.values())


def test_the_cut_is_the_one_that_qwen2_publishes() -> None:
    transformers = pytest.importorskip("transformers.models.qwen2.tokenization_qwen2")
    published = getattr(transformers, "PRETOKENIZE_REGEX", None)
    assert published is not None
    assert published == GPT4


def test_the_table_has_a_row_for_every_tokenizer_cue_and_delimiter(encoders: dict[str, Encode]) -> None:
    rows = table(encoders).splitlines()
    assert len(rows) == 2 + len(encoders) * 2 * 2
    assert f"| {QWEN} | 答案： | none | 0 0, **cue cut** |" in "\n".join(rows)
