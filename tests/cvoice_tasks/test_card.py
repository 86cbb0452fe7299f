"""The bundled folder as ``datasets`` reads it: by language and split, from the card's YAML head."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(str(resources.files("cvoice_tasks"))) / "data"
_SCRIPT = """
import json, sys
from datasets import load_dataset
folder, language, split = sys.argv[1:]
rows = load_dataset(folder, language, split=split)
print(json.dumps([row["id"] for row in rows]))
"""


def head() -> dict[str, Any]:
    text = (FOLDER / "README.md").read_text("utf-8")
    start, block, _ = text.split("---\n", 2)
    assert start == ""
    loaded: dict[str, Any] = yaml.safe_load(block)
    return loaded


def test_the_head_names_every_items_file_once() -> None:
    card = head()
    assert card["license"] == "cc-by-4.0"
    assert card["language"] == ["zh", "en"]
    assert [config["config_name"] for config in card["configs"]] == ["zh", "en", "neutral_zh", "neutral_en"]
    for config in card["configs"]:
        for file in config["data_files"]:
            assert (FOLDER / file["path"]).is_file()
            assert file["path"] == f"{file['split']}.{config['config_name'][-2:]}.jsonl"
    named = {file["path"] for config in card["configs"] for file in config["data_files"]}
    there = {
        path.name
        for split in ("evaluation", "activation", "fewshot", "neutral")
        for path in FOLDER.glob(f"{split}.*.jsonl")
    }
    assert there <= named


@pytest.mark.parametrize(("config", "split"), [("zh", "evaluation"), ("en", "activation"), ("neutral_zh", "neutral")])
def test_load_dataset_reads_a_language_and_split_offline(tmp_path: Path, config: str, split: str) -> None:
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    environment |= {"HF_DATASETS_CACHE": str(tmp_path / "datasets")}
    command = [sys.executable, "-c", _SCRIPT, str(FOLDER), config, split]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    lines = (FOLDER / f"{split}.{config[-2:]}.jsonl").read_text("utf-8").splitlines()
    assert json.loads(result.stdout.splitlines()[-1]) == [json.loads(line)["id"] for line in lines]
