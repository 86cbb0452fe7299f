"""Items as lm-eval documents, read by letter.

Every item becomes two documents, one for each order of its options, so that a liking for the first letter cancels
out and can be measured. The prompt asks for the reader's own act; `question` (what does the person do?) would ask
for a prediction of the character.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets

from cvoice_foundation.errors import CVoiceError
from cvoice_tasks.items import Item, items_path, load_items, of_value, pair_of, twin_ids
from cvoice_tasks.values import VALUE_KEYS, Language

_QUESTION: dict[Language, re.Pattern[str]] = {
    "zh": re.compile(r"(?P<name>[^，。？]+?)(?:会|应该|该|打算|最终)*(?:怎么做|怎么办|怎样做|如何做)？"),
    "en": re.compile(r"What (?:does|will|would|should|did|is) (?P<name>[^,.?]+(?:\.[^,.?]+)?) (?:do|going to do)\?"),
}
_OWN_ACT: dict[Language, tuple[str, str]] = {
    "zh": ("如果你是{name}，你会怎么做？", "如果你是当事人，你会怎么做？"),
    "en": ("In {name}'s place, what would you do?", "In this person's place, what would you do?"),
}


def own_act_question(question: str, language: Language) -> str:
    """Turns the question about a character into one about the reader's own act.

    Args:
        question: The item's question, e.g. ``What does Xiulan do?`` or ``秀兰会怎么做？``.
        language: Its language.

    Returns:
        ``In Xiulan's place, what would you do?``, ``如果你是秀兰，你会怎么做？``; without a name where the question
        does not give one.
    """
    named, unnamed = _OWN_ACT[language]
    match = _QUESTION[language].fullmatch(question.strip())
    return named.format(name=match["name"].strip()) if match else unnamed


def letter_documents(items: Sequence[Item], language: Language) -> list[dict[str, Any]]:
    """Two documents an item: the aligned act as option A, then as option B.

    Twins that follow each other in the items follow each other here: four documents, so `--limit 4` is one pair.

    Args:
        items: Items of one language.
        language: That language.

    Returns:
        Documents; ``gold`` is the place of the aligned act (0 or 1), ``pair`` the cluster, ``twin`` whether both
        stories of the pair are there.
    """
    twins = twin_ids(items)
    documents = []
    for item in items:
        for gold in (0, 1):
            options = (item.aligned, item.violating) if gold == 0 else (item.violating, item.aligned)
            documents.append(
                {
                    "id": item.id,
                    "pair": pair_of(item.id),
                    "twin": item.id in twins,
                    "value": item.value,
                    "language": language,
                    "story": item.story,
                    "ask": own_act_question(item.question, language),
                    "option_a": options[0],
                    "option_b": options[1],
                    "gold": gold,
                }
            )
    return documents


def letters_dataset(
    *, language: Language, value: str, data_dir: str | Path | None = None, **_: Any
) -> datasets.DatasetDict:
    """The ``custom_dataset`` of the letters tasks.

    Args:
        language: From the task's ``dataset_kwargs``.
        value: From the task's ``dataset_kwargs``.
        data_dir: From ``--metadata data_dir=DIR``: a folder with items to use in place of the bundled ones.
        _: lm-eval passes all metadata and model arguments to every such function.

    Returns:
        A ``test`` split.

    Raises:
        CVoiceError: The folder does not hold such items.
    """
    folder = None if data_dir is None else Path(str(data_dir)).expanduser()
    everything = load_items("evaluation", language, folder)
    items = of_value(everything, value)
    if not items:
        there = {item.value for item in everything}
        tasks = ",".join(f"cvoice_{language}_{key}" for key in VALUE_KEYS if key in there)
        raise CVoiceError(
            f"{items_path('evaluation', language, folder)}: no items of the value {value!r}; run --tasks {tasks}"
        )
    documents = letter_documents(items, language)
    return datasets.DatasetDict({"test": datasets.Dataset.from_list(documents)})
