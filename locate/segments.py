"""Which tokens of a text are its story's, its act's and its rationale's.

A tokenizer may merge characters across the boundary of two parts, and splits others into several tokens, so parts are
found by the characters that a token stands for, never by tokenizing the parts one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from cvoice_foundation.errors import CVoiceError, suggestion

Part = Literal["story", "action", "rationale", "template"]
PARTS: tuple[Part, ...] = get_args(Part)
COUNTED: tuple[Part, ...] = ("story", "action", "rationale")
"""What counts unless asked otherwise: never what a template, a separator or the tokenizer adds."""

NO_PART = -1
"""Code of pads and special tokens, which are never counted."""


def check_parts(parts: Iterable[str]) -> tuple[Part, ...]:
    """The parts to count, in their order.

    Raises:
        CVoiceError: One is not known, or there is none.
    """
    wanted = list(parts)
    for part in wanted:
        if part not in PARTS:
            raise CVoiceError(f"--tokens names {part!r}{suggestion(part, PARTS)}")
    if not wanted:
        raise CVoiceError(f"--tokens is empty; name some of {', '.join(PARTS)}, with commas between")
    return tuple(part for part in PARTS if part in wanted)


def render(parts: Mapping[Part, str], tokenizer: Any, chat: bool) -> tuple[str, dict[Part, tuple[int, int]]]:
    """The text that a model reads, and where its parts lie in it.

    Args:
        parts: Story, action and, where there is one, rationale; empty ones are left out.
        tokenizer: The model's, asked for its chat template.
        chat: Whether to put the story into a user's turn and the rest into the assistant's answer; else a line each.

    Returns:
        The text, and ``[start, end)`` of each part in characters.

    Raises:
        CVoiceError: There is no chat template, or it changes the texts.
    """
    there = {part: text for part, text in parts.items() if text}
    if chat:
        if not getattr(tokenizer, "chat_template", None):
            raise CVoiceError("this model's tokenizer has no chat template; leave out --apply-chat-template")
        answer = "\n".join(text for part, text in there.items() if part != "story")
        turns = [{"role": "user", "content": there["story"]}, {"role": "assistant", "content": answer}]
        whole = str(tokenizer.apply_chat_template(turns, tokenize=False))
    else:
        whole = "\n".join(there.values())
    spans: dict[Part, tuple[int, int]] = {}
    end = 0
    for part, text in there.items():
        start = whole.find(text, end)
        if start < 0:
            raise CVoiceError(
                f"the chat template changes the {part} ({text[:30]!r}...); leave out --apply-chat-template"
            )
        end = start + len(text)
        spans[part] = (start, end)
    return whole, spans


def part_codes(
    offsets: Sequence[tuple[int, int]], special: Sequence[int], spans: Mapping[Part, tuple[int, int]]
) -> list[int]:
    """Of each token, the place in :data:`PARTS` of the part that it is counted for, or :data:`NO_PART`.

    A token is of the part that holds the last of its characters which lies in any part: the newline that a tokenizer
    glues to the first word of an act does not take the word away from it.

    Args:
        offsets: ``[start, end)`` of each token in characters; several tokens of one character share it.
        special: 1 for tokens that the tokenizer added.
        spans: From :func:`render`.
    """
    codes = []
    for (start, end), added in zip(offsets, special, strict=True):
        if added or start == end:
            codes.append(NO_PART)
            continue
        reached = [
            (min(end, last), PARTS.index(part)) for part, (first, last) in spans.items() if start < last and first < end
        ]
        codes.append(max(reached)[1] if reached else PARTS.index("template"))
    return codes
