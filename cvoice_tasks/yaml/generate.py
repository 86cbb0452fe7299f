"""Writes one small YAML a leaf task and one a group; run after a change here: ``python -m cvoice_tasks.yaml.generate``.

What the tasks of a family share stands in the family's ``_..._template_yaml``, which is written by hand.
"""

from __future__ import annotations

from typing import NamedTuple

from cvoice_foundation.files import write_whole
from cvoice_tasks.values import LANGUAGES, VALUES, Language, Value
from cvoice_tasks.yaml import FOLDER

_HEAD = "# Written by cvoice_tasks/yaml/generate.py\n"
_ORDERS = ("acc", "robust_acc", "twin_acc", "consistency", "margin", "position_bias")
_ANSWERS = ("acc", "violating", "refused", "unparsed", *_ORDERS[1:])


class Family(NamedTuple):
    """A way of reading a choice.

    Attributes:
        folder: Where its YAMLs lie.
        prefix: What its names begin with.
        template: What its templates are called.
        group_metrics: What groups show: the metrics whose value over all documents is the mean of the leaves' values,
            weighted by their documents, as lm-eval pools. A ratio over the answered documents alone is not among them.
    """

    folder: str
    prefix: str
    template: str
    group_metrics: tuple[str, ...]


FAMILIES: tuple[Family, ...] = (
    Family("letters", "cvoice", "letters", _ORDERS),
    Family("cloze", "cvoice_cloze", "cloze", ("acc", "acc_sum", "twin_acc", "margin", "length_bias")),
    Family("generation", "cvoice_gen", "gen", _ANSWERS),
    Family("recognition", "cvoice_recog", "recog", _ORDERS),
    Family("likert", "cvoice_likert", "likert", ("acc", "twin_acc", "margin", "likert_score", "scale_bias")),
)


def leaf_yaml(family: Family, language: Language, value: Value) -> str:
    """The YAML of ``{prefix}_{language}_{value}``."""
    return (
        f"{_HEAD}include: _{family.template}_{language}_template_yaml\n"
        f"task: {family.prefix}_{language}_{value.key}\n"
        f"tag: {family.prefix}_{value.level}\n"
        f"dataset_kwargs:\n  language: {language}\n  value: {value.key}\n"
    )


def group_yaml(family: Family, name: str, children: list[str]) -> str:
    """The YAML of a group; its figures are means over its leaves, each counted by its documents."""
    tasks = "".join(f"  - {child}\n" for child in children)
    metrics = "".join(f"  - metric: {metric}\n    weight_by_size: true\n" for metric in family.group_metrics)
    return f"{_HEAD}group: {name}\ntask:\n{tasks}aggregate_metric_list:\n{metrics}metadata:\n  version: 2.0\n"


def task_files() -> dict[str, str]:
    """File name (under this folder) -> content, of every generated YAML."""
    files = {}
    for family in FAMILIES:
        for language in LANGUAGES:
            name = f"{family.prefix}_{language}"
            for value in VALUES:
                files[f"{family.folder}/{name}_{value.key}.yaml"] = leaf_yaml(family, language, value)
            leaves = [f"{name}_{value.key}" for value in VALUES]
            files[f"{family.folder}/_{name}.yaml"] = group_yaml(family, name, leaves)
        both = [f"{family.prefix}_{language}" for language in LANGUAGES]
        files[f"{family.folder}/_{family.prefix}.yaml"] = group_yaml(family, family.prefix, both)
    return files


if __name__ == "__main__":
    for file_name, content in task_files().items():
        write_whole(FOLDER / file_name, content)
