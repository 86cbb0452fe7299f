"""Stories told twice: shared character 5-grams between any two numbers of a language."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from cvoice_tasks.audit_schema import Fault
from cvoice_tasks.items import Item, pair_of

_ROWS = 256  # a block of the product of all stories with all stories stays under a few hundred megabytes


def _normal(text: str) -> str:
    return re.sub(r"\W+", "", text.casefold())


def near_duplicates(items: Sequence[Item], language: str, limit: float) -> list[Fault]:
    """Pairs of stories of different numbers that share too much of their text.

    The share is |A & B| / min(|A|, |B|) over sets of character 5-grams (the overlap coefficient), case, spaces and
    punctuation left out. It is counted exactly for every pair, not sketched, so that none can be missed.

    Args:
        items: Items of one language, all splits.
        language: For the message.
        limit: The largest share that is no fault.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    texts = [_normal(item.story) for item in items]
    if not any(len(text) >= 5 for text in texts):
        return []
    grams = CountVectorizer(analyzer="char", ngram_range=(5, 5), lowercase=False, binary=True).fit_transform(texts)
    sizes = np.asarray(grams.sum(axis=1)).ravel()
    pairs = np.asarray([pair_of(item.id) for item in items])
    faults = []
    for start in range(0, len(items), _ROWS):
        shared = (grams[start : start + _ROWS] @ grams.T).toarray()
        smaller = np.maximum(1, np.minimum.outer(sizes[start : start + _ROWS], sizes))
        share = shared / smaller
        rows, columns = np.nonzero(share > limit)
        for row, column in zip((rows + start).tolist(), columns.tolist(), strict=True):
            if row < column and pairs[row] != pairs[column]:
                value = float(share[row - start, column])
                what = "one story" if texts[row] == texts[column] else f"share {value:.2f} of the shorter story"
                faults.append(Fault("duplicates", f"{language}, {items[row].id} and {items[column].id}", what))
    return faults
