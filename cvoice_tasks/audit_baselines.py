"""What a reader without understanding gets right: heuristics and n-gram classifiers.

Each figure is the share of items whose aligned act scores higher than the violating one; a tie counts half.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvoice_tasks.items import Item, is_twin_id, pair_of

_FOLDS = 5
_RIDGE = 0.1


def _tokens(text: str, language: str) -> list[str]:
    if language == "en":
        return re.findall(r"[a-z0-9']+", text.casefold())
    characters = re.sub(r"\W+", "", text)
    return [characters[i : i + 2] for i in range(len(characters) - 1)]


def _share_right(margins: Sequence[float] | NDArray[Any]) -> float:
    signs = np.sign(np.round(np.asarray(margins, dtype=float), 9))
    return float(np.mean((signs + 1) / 2))


def _overlap(act: str, text: str, language: str) -> float:
    tokens = set(_tokens(act, language))
    return len(tokens & set(_tokens(text, language))) / max(1, len(tokens))


def last_sentence(story: str) -> str:
    """The last sentence of a story, in either language."""
    sentences = [part for part in re.split(r"(?<=[。！？!?])|(?<=\.)\s+", story) if part.strip(" 」”’\"'")]
    return sentences[-1] if sentences else story


def overlap(items: Sequence[Item], language: str) -> float:
    """Picks the act more of whose words stand in the story."""
    return _share_right(
        [_overlap(one.aligned, one.story, language) - _overlap(one.violating, one.story, language) for one in items]
    )


def last_sentence_overlap(items: Sequence[Item], language: str) -> float:
    """Picks the act more of whose words stand in the story's last sentence."""
    ends = [last_sentence(one.story) for one in items]
    return _share_right(
        [
            _overlap(one.aligned, end, language) - _overlap(one.violating, end, language)
            for one, end in zip(items, ends, strict=True)
        ]
    )


def longer_option(items: Sequence[Item], language: str) -> float:
    """Picks the longer act, in characters."""
    return _share_right([len(one.aligned) - len(one.violating) for one in items])


def first_mention(act: str, other: str, story: str, language: str) -> float:
    """Where the story first has a word that this act has and the other has not; infinite if nowhere."""
    own = set(_tokens(act, language)) - set(_tokens(other, language))
    return next((float(i) for i, token in enumerate(_tokens(story, language)) if token in own), float("inf"))


def first_option(items: Sequence[Item], language: str) -> float:
    """Picks the act that the story mentions first (an act's own words, those that the other act has not).

    The tasks ask in both orders of the options, so that the order in which options are shown gives 0.5 by itself.
    """
    margins = []
    for one in items:
        aligned = first_mention(one.aligned, one.violating, one.story, language)
        violating = first_mention(one.violating, one.aligned, one.story, language)
        margins.append(0.0 if aligned == violating else violating - aligned)
    return _share_right(np.sign(margins))


def _vectors(texts: Sequence[str], language: str, known: Sequence[str]) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    shape: dict[str, Any] = (
        {"ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"}
        if language == "en"
        else {"analyzer": "char", "ngram_range": (1, 3)}
    )
    return TfidfVectorizer(**shape).fit(known).transform(texts)


def _option_kernel(left: Sequence[Item], right: Sequence[Item], language: str) -> NDArray[Any]:
    known = [text for one in right for text in (one.aligned, one.violating)]
    differences = [
        _vectors([one.aligned for one in items], language, known)
        - _vectors([one.violating for one in items], language, known)
        for items in (left, right)
    ]
    return np.asarray((differences[0] @ differences[1].T).toarray())


def _product_kernel(left: Sequence[Item], right: Sequence[Item], language: str) -> NDArray[Any]:
    known = [one.story for one in right]
    stories = [_vectors([one.story for one in items], language, known) for items in (left, right)]
    shared: NDArray[Any] = (stories[0] @ stories[1].T).toarray()
    product: NDArray[Any] = shared * _option_kernel(left, right, language)
    return product


Kernel = Callable[[Sequence[Item], Sequence[Item], str], NDArray[Any]]


def _margins(train: Sequence[Item], test: Sequence[Item], language: str, kernel: Kernel) -> NDArray[Any]:
    """Margins of a ridge classifier without intercept that learns +1 for every aligned-minus-violating difference.

    Mirrored examples (violating minus aligned, -1) would give the same weights, so they are left out.
    """
    from sklearn.kernel_ridge import KernelRidge

    model = KernelRidge(alpha=_RIDGE, kernel="precomputed").fit(kernel(train, train, language), np.ones(len(train)))
    return np.asarray(model.predict(kernel(test, train, language)))


def _folds(items: Sequence[Item]) -> list[tuple[list[int], list[int]]]:
    from sklearn.model_selection import GroupKFold

    groups = [pair_of(one.id) for one in items]
    if len(set(groups)) < _FOLDS:
        return []
    folds = GroupKFold(_FOLDS, shuffle=True, random_state=0).split(np.zeros(len(items)), groups=groups)
    return [(train.tolist(), test.tolist()) for train, test in folds]


def option_only(items: Sequence[Item], language: str) -> float | None:
    """A classifier of the two acts alone, 5-fold by number; None with fewer than five numbers."""
    margins: list[float] = []
    for train, test in _folds(items):
        left, right = [items[i] for i in train], [items[i] for i in test]
        margins += _margins(left, right, language, _option_kernel).tolist()
    return _share_right(margins) if margins else None


def option_only_untwinned(items: Sequence[Item], language: str) -> float | None:
    """The same classifier with twins broken up: trained on the a's, tested on other numbers' a's."""
    return option_only([one for one in items if is_twin_id(one.id) and one.id.endswith("a")], language)


def products(train: Sequence[Item], test: Sequence[Item], language: str) -> float:
    """A classifier with story x option n-gram products, trained on one split and tested on another.

    The kernel of all products is the product of the two kernels, (s.s')(d.d'), so they need not be written out.
    """
    return _share_right(_margins(train, test, language, _product_kernel))


def value_from_story(items: Sequence[Item], language: str) -> float | None:
    """How often a classifier of the story's n-grams names the value, 5-fold by number; None if it cannot be asked."""
    from sklearn.linear_model import RidgeClassifier

    if len({one.value for one in items}) < 2:
        return None
    right: list[bool] = []
    for train, test in _folds(items):
        texts, values = [items[i].story for i in train], [items[i].value for i in train]
        if len(set(values)) < 2:
            return None
        model = RidgeClassifier(alpha=1.0).fit(_vectors(texts, language, texts), values)
        guesses = model.predict(_vectors([items[i].story for i in test], language, texts))
        right += [guess == items[i].value for guess, i in zip(guesses, test, strict=True)]
    return float(np.mean(right)) if right else None
