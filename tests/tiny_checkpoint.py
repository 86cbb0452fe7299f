"""Tiny checkpoints with a tokenizer, as ``pretrained=`` takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.tiny_models import tiny_model

WORDS = ("<pad>", "<s>", "</s>", "<unk>", *(f"w{number}" for number in range(92)))


def tiny_checkpoint(folder: Path, model_type: str = "llama", **changes: Any) -> str:
    """Writes a random model and a tokenizer of 96 words, w0 to w91; returns the folder's name."""
    vocabulary = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    vocabulary.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=vocabulary, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder)
    tiny_model(model_type, **changes).save_pretrained(folder)
    return str(folder)


def choice_requests(count: int = 7) -> list[tuple[str, str]]:
    """(context, continuation) pairs of unlike lengths."""
    return [(" ".join(f"w{(i * 7 + j) % 92}" for j in range(3 + i)), f" w{i}") for i in range(count)]
