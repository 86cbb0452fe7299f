"""How many tokens an option's label costs behind the prompt's cue, for each kind of tokenizer.

    python benchmarks/labels.py

Trains small tokenizers on the bundled stories, with both styles of labels equally often in the text, and prints the
table of docs/readings.md. Nothing is downloaded; a model's own tokenizer can be added: `--tokenizer NAME_OR_FOLDER`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

Encode = Callable[[str], Sequence[int]]

GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How Qwen2 cuts text before merging; GPT-4 and Llama 3 differ only in taking up to three digits at once."""

UNKNOWN = "<unk>"
LABELS: dict[str, tuple[str, ...]] = {"A/B": ("A", "B"), "甲/乙": ("甲", "乙"), "0-4": tuple("01234")}
CUES: dict[str, str] = {"zh": "答案：", "en": "Answer:"}


class Cost(NamedTuple):
    """What the labels of one style cost behind a cue.

    Attributes:
        tokens: Of each label, with the delimiter.
        apart: Whether the cue's own tokens stay as they are when a label follows; if not, lm-eval scores a cut token.
        forward_passes: That lm-eval's `hf` needs for one document: one for each distinct text before the last token.
    """

    tokens: tuple[int, ...]
    apart: bool
    forward_passes: int


def cost(encode: Encode, cue: str, delimiter: str, labels: Sequence[str]) -> Cost:
    """Counts as lm-eval's ``_encode_pair`` cuts: the tokens of the whole behind as many as the cue has alone."""
    alone = list(encode(cue))
    whole = [list(encode(cue + delimiter + label)) for label in labels]
    behind = [tokens[len(alone) :] for tokens in whole]
    return Cost(
        tuple(len(tokens) for tokens in behind),
        all(tokens[: len(alone)] == alone for tokens in whole),
        len({tuple(tokens[:-1]) for tokens in whole}),
    )


def _byte_level(texts: Sequence[str], size: int, cut: str | None) -> Encode:
    tokenizer = Tokenizer(models.BPE())
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut is None)
    split = [] if cut is None else [pre_tokenizers.Split(Regex(cut), behavior="isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, plain])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    return lambda text: tokenizer.encode(text).ids


def _sentence_piece(texts: Sequence[str], size: int, unigram: bool) -> Encode:
    tokenizer = Tokenizer(models.Unigram() if unigram else models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.NFKC() if unigram else None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer: trainers.Trainer
    if unigram:
        trainer = trainers.UnigramTrainer(
            vocab_size=size, special_tokens=[UNKNOWN], unk_token=UNKNOWN, show_progress=False
        )
    else:
        trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[UNKNOWN], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return lambda text: tokenizer.encode(text).ids


def train_all(texts: Sequence[str], size: int) -> dict[str, Encode]:
    """One tokenizer of each kind, trained on the same texts."""
    return {
        "byte-level BPE, GPT-2's cut": _byte_level(texts, size, None),
        "byte-level BPE, Qwen's and GPT-4's cut": _byte_level(texts, size, GPT4),
        "SentencePiece-like BPE": _sentence_piece(texts, size, unigram=False),
        "SentencePiece-like Unigram (NFKC)": _sentence_piece(texts, size, unigram=True),
    }


def corpus(stories: Iterable[str]) -> list[str]:
    """Stories, each followed by a labelled answer: both styles, with a space and without, equally often."""
    texts = []
    for number, story in enumerate(stories):
        style = ("A/B", "甲/乙")[number % 2]
        label = LABELS[style][number // 2 % 2]
        delimiter = ("", " ")[number // 4 % 2]
        texts.append(f"{story}\n" + "\n".join(f"{name}. {number % 5}" for name in LABELS[style]))
        texts += [f"{cue}{delimiter}{label}" for cue in CUES.values()]
    return texts


def _cell(got: Cost) -> str:
    cut = "" if got.apart else ", **cue cut**"
    more = "" if got.forward_passes == 1 else f", {got.forward_passes} passes"
    return f"{' '.join(map(str, got.tokens))}{cut}{more}"


def table(encoders: dict[str, Encode]) -> str:
    """The Markdown table of all costs; one forward pass a document where a cell does not say more."""
    rows = [f"| tokenizer | cue | delimiter | {' | '.join(LABELS)} |", "|---|---|---|" + "---|" * len(LABELS)]
    for name, encode in encoders.items():
        for cue in CUES.values():
            for delimiter, shown in (("", "none"), (" ", "space")):
                cells = [_cell(cost(encode, cue, delimiter, labels)) for labels in LABELS.values()]
                rows.append(f"| {name} | {cue} | {shown} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    """Prints the table."""
    from transformers import AutoTokenizer

    from cvoice_tasks.items import load_items
    from cvoice_tasks.values import LANGUAGES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=8000, help="entries of each trained vocabulary")
    parser.add_argument("--tokenizer", action="append", default=[], help="a tokenizer to add, by name or folder")
    arguments = parser.parse_args()
    stories = [
        item.story for split in ("evaluation", "activation") for lang in LANGUAGES for item in load_items(split, lang)
    ]
    encoders = train_all(corpus(stories), arguments.size)
    for name in arguments.tokenizer:
        encoders[name] = AutoTokenizer.from_pretrained(name).encode
    print(table(encoders))


if __name__ == "__main__":
    main()
