"""Tokens are given to the part of the text that they stand for, whatever a tokenizer merges or splits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from cvoice_foundation.errors import CVoiceError
from locate.corpus import Text, tokenize
from locate.segments import NO_PART, PARTS, check_parts, part_codes, render

STORIES = [
    "Mei promised her brother the early train. Her teacher is ill.",
    "小梅答应了弟弟坐早班火车。老师病了，没有人知道。",
]
ACTS = ["Takes the late train.", "坐晚班火车去看老师。"]
WHY = ["A promise holds.", "答应的事要做到。"]


def byte_level() -> Tokenizer:
    """As GPT-2 and Qwen: bytes, no cut before a newline, so that '.\\n' and half a Chinese character are tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentence_piece_like() -> Tokenizer:
    """As Llama 2: spaces are a mark on the next word, and one stands before the first."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def trained(make: Callable[[], Tokenizer], vocab_size: int = 600, bos: bool = False) -> Any:
    tokenizer = make()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=10,
        special_tokens=["<s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if make is byte_level else [],
        show_progress=False,
    )
    # The joints many times and all else once, so that merges grow across the joints alone.
    joints = ["l.\nT", "n.\nA", "道。\n坐", "师。\n答", " the", "Mei", "老师"] * 20
    tokenizer.train_from_iterator(joints + STORIES + ACTS + WHY, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")


@pytest.mark.parametrize("make", [byte_level, sentence_piece_like])
@pytest.mark.parametrize("which", [0, 1])
def test_the_act_is_covered_and_nothing_else_is_taken(make: Callable[[], Tokenizer], which: int) -> None:
    tokenizer = trained(make, bos=True)
    parts = {"story": STORIES[which], "action": ACTS[which], "rationale": WHY[which]}
    whole, spans = render(parts, tokenizer, False)  # type: ignore[arg-type]
    encoded = tokenizer(whole, return_offsets_mapping=True, return_special_tokens_mask=True)
    codes = part_codes(encoded["offset_mapping"], encoded["special_tokens_mask"], spans)
    assert codes[0] == NO_PART, "the first token is the tokenizer's own"
    # Parts come in order, and each token of a part reaches into it.
    order = [code for code in codes if code not in (NO_PART, PARTS.index("template"))]
    assert order == sorted(order)
    assert set(order) == {0, 1, 2}
    for (start, end), code in zip(encoded["offset_mapping"], codes, strict=True):
        for part, (first, last) in spans.items():
            inside = min(end, last) > max(start, first)
            assert not (PARTS[code] == part and not inside)
    # A token across a joint is the later part's, so a part's first character is always its own token's, and its last
    # one its own or the next part's.
    for part, (first, last) in spans.items():
        mine = [o for o, code in zip(encoded["offset_mapping"], codes, strict=True) if code == PARTS.index(part)]
        assert mine[0][0] <= first < mine[0][1]
        later = [o for o, c in zip(encoded["offset_mapping"], codes, strict=True) if c >= PARTS.index(part)]
        assert set(range(first, last)) <= {character for start, end in later for character in range(start, end)}
    # These tokenizers did merge across a joint, or the test would show nothing.
    joint = spans["action"][0]
    assert any(start < joint < end for start, end in encoded["offset_mapping"])


def test_codes_by_value() -> None:
    spans = {"story": (0, 4), "action": (5, 8), "rationale": (9, 10)}
    offsets = [(0, 0), (0, 2), (2, 4), (4, 6), (6, 7), (6, 7), (7, 9), (9, 10), (10, 11), (3, 6)]
    special = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    codes = part_codes(offsets, special, spans)  # type: ignore[arg-type]
    assert [PARTS[code] if code >= 0 else None for code in codes] == [
        None,
        "story",
        "story",
        "action",  # newline and the first letter
        "action",
        "action",  # another token of the same character
        "action",  # last letter and newline
        "rationale",
        "template",
        "action",  # reaches from the story into the act: the act has its last character
    ]


class Chat:
    """A tokenizer with a template."""

    chat_template = "x"

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern

    def apply_chat_template(self, turns: list[dict[str, str]], tokenize: bool) -> str:
        assert not tokenize
        assert [turn["role"] for turn in turns] == ["user", "assistant"]
        return self.pattern.format(*(turn["content"] for turn in turns))


def test_a_chat_template_is_found_around_the_parts() -> None:
    parts = {"story": "She waits.", "action": "She waits.", "rationale": "Why."}
    whole, spans = render(parts, Chat("<u>{0}<a>{1}<e>"), True)  # type: ignore[arg-type]
    assert whole == "<u>She waits.<a>She waits.\nWhy.<e>"
    assert spans == {"story": (3, 13), "action": (16, 26), "rationale": (27, 31)}
    with pytest.raises(CVoiceError, match="changes the action"):
        render(parts, Chat("<u>{0}<a>"), True)  # type: ignore[arg-type]
    with pytest.raises(CVoiceError, match="no chat template"):
        render(parts, object(), True)  # type: ignore[arg-type]


@given(st.lists(st.sampled_from([*PARTS, "words"]), max_size=5))
def test_parts_are_checked(parts: list[str]) -> None:
    if not parts or "words" in parts:
        with pytest.raises(CVoiceError, match="--tokens"):
            check_parts(parts)
    else:
        assert check_parts(parts) == tuple(part for part in PARTS if part in parts)


def test_texts_that_cannot_be_read_are_told() -> None:
    tokenizer = trained(byte_level)
    text = Text("integrity", "en", "aligned", "integrity-0001", STORIES[0], ACTS[0])
    with pytest.raises(CVoiceError, match="longer than the model's 3"):
        tokenize([text], tokenizer, chat=False, max_length=3)
    with pytest.raises(CVoiceError, match="tokenizer.json"):
        tokenize([text], object(), chat=False, max_length=1000)
