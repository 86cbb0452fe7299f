"""Writes one small YAML a leaf task and one a group; run after a change here: ``python -m cvoice_tasks.yaml.generate``.

What the tasks of a family share stands in the family's ``_..._template_yaml``, which is written by hand.
"""

from __future__ import annotations

from cvoice_foundation.files import write_whole
from cvoice_tasks.values import LANGUAGES, VALUES, Language, Value
from cvoice_tasks.yaml import FOLDER

_HEAD = "# Written by cvoice_tasks/yaml/generate.py\n"
_GROUP_METRICS = ("acc", "robust_acc", "twin_acc", "consistency", "margin", "position_bias")


def leaf_yaml(language: Language, value: Value) -> str:
    """The YAML of ``cvoice_{language}_{value}``."""
    return (
        f"{_HEAD}include: _letters_{language}_template_yaml\n"
        f"task: cvoice_{language}_{value.key}\n"
        f"tag: cvoice_{value.level}\n"
        f"dataset_kwargs:\n  language: {language}\n  value: {value.key}\n"
    )


def group_yaml(name: str, children: list[str]) -> str:
    """The YAML of a group; its figures are means over its leaves, each counted by its documents."""
    tasks = "".join(f"  - {child}\n" for child in children)
    metrics = "".join(f"  - metric: {metric}\n    weight_by_size: true\n" for metric in _GROUP_METRICS)
    return f"{_HEAD}group: {name}\ntask:\n{tasks}aggregate_metric_list:\n{metrics}metadata:\n  version: 1.0\n"


def task_files() -> dict[str, str]:
    """File name (under this folder) -> content, of every generated YAML."""
    files = {}
    for language in LANGUAGES:
        for value in VALUES:
            files[f"letters/cvoice_{language}_{value.key}.yaml"] = leaf_yaml(language, value)
        leaves = [f"cvoice_{language}_{value.key}" for value in VALUES]
        files[f"letters/_cvoice_{language}.yaml"] = group_yaml(f"cvoice_{language}", leaves)
    files["letters/_cvoice.yaml"] = group_yaml("cvoice", [f"cvoice_{language}" for language in LANGUAGES])
    return files


if __name__ == "__main__":
    for file_name, content in task_files().items():
        write_whole(FOLDER / file_name, content)
