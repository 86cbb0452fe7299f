"""Small corpora of the 96 words that tiny checkpoints know, in twins, so that nothing hangs on the bundled stories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from locate.corpus import Text
from locate.segments import NO_PART, PARTS, part_codes, render
from tests.tiny_checkpoint import tiny_checkpoint


def _words(start: int, count: int, step: int = 7) -> str:
    return " ".join(f"w{(start + step * i) % 92}" for i in range(count))


def twins(value: str, number: int, language: str = "en") -> list[Text]:
    """A pair: two stories, each with both acts, which change sides; the aligned act has a rationale behind it."""
    seed = sum(map(ord, value)) + 13 * number + (5 if language == "zh" else 0)
    acts = (_words(seed + 3, 4), _words(seed + 11, 5))
    pair = f"{value}-{number:04d}"
    texts = []
    for twin, (upheld, given_up) in enumerate((acts, acts[::-1])):
        story = _words(seed + 29 * twin, 6 + number % 4 + twin, 5)
        rationale = _words(seed + 17, 3)
        texts.append(Text(value, language, "aligned", pair, story, upheld, rationale))  # type: ignore[arg-type]
        texts.append(Text(value, language, "violating", pair, story, given_up))  # type: ignore[arg-type]
    return texts


def corpus(pairs: int = 3, values: tuple[str, ...] = ("integrity", "freedom", "harmony")) -> list[Text]:
    """Twins of several values in two languages."""
    numbers = range(1001, 1001 + pairs)
    return [text for v in values for n in numbers for lang in ("zh", "en") for text in twins(v, n, lang)]


def loaded(folder: Path, model_type: str = "llama", **changes: Any) -> tuple[Any, Any]:
    """A tiny random model and its tokenizer."""
    path = tiny_checkpoint(folder, model_type, **changes)
    return AutoModelForCausalLM.from_pretrained(path).eval(), PreTrainedTokenizerFast.from_pretrained(path)


def codes_of(text: Text, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Token ids of a text and the part of each."""
    whole, spans = render(text.parts, tokenizer, False)
    encoded = tokenizer(whole, return_offsets_mapping=True, return_special_tokens_mask=True)
    return encoded["input_ids"], part_codes(encoded["offset_mapping"], encoded["special_tokens_mask"], spans)


ACTION = PARTS.index("action")
TEMPLATE = PARTS.index("template")
NONE = NO_PART
