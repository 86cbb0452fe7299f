"""Count files of the public value-neuron release: read with weights_only, selected from without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cvoice_foundation.errors import CVoiceError
from intervention.mask import NeuronMask
from locate.counts import load_counts
from locate.run import select_masks
from locate.select import SelectOptions
from locate.vape import VapeOptions
from tests.locate.test_vape import by_definition


def save_counts(folder: Path, name: str, fired: np.ndarray, tokens: float, questions: int) -> str:
    path = folder / f"{name}.counts.pt"
    counts = {"token_num": tokens, "question_num": questions, "over_zero": torch.tensor(fired, dtype=torch.int32)}
    torch.save(counts, path)
    return f"{name}={path}"


def test_count_files_of_the_public_release(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    fired = rng.integers(0, 500, (2, 3, 60))
    sources = [save_counts(tmp_path, name, fired[c], 1000.0, 7) for c, name in enumerate(("support", "conflict"))]
    options = VapeOptions(0.1, 0.5, 0.5, "questions")
    masks = select_masks(sources, tmp_path / "out", SelectOptions(vape=options))
    expected = by_definition(fired, np.array([7, 7]), options)
    assert {(c, x.layer, n) for c, mask in enumerate(masks) for x in mask.layers for n in x.neurons} == expected
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["conflict.jsonl", "support.jsonl"]
    loaded = NeuronMask.load(tmp_path / "out" / "support.jsonl")
    assert loaded == masks[0]
    assert (loaded.model.name, loaded.model.num_layers, loaded.model.num_neurons) == (None, 3, 60)
    assert (
        json.loads((tmp_path / "out" / "support.jsonl").read_text().splitlines()[0])["method"]["denominator"]
        == "questions"
    )


def test_count_files_that_are_none(tmp_path: Path) -> None:
    good = save_counts(tmp_path, "a", np.ones((2, 3)), 5, 5)
    other = save_counts(tmp_path, "b", np.ones((2, 4)), 5, 5)
    (tmp_path / "text.pt").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pt")
    for sources, message in (
        ([good, other], r"\(2, 4\) layers and neurons, and the first file has \(2, 3\)"),
        ([good, f"b={tmp_path / 'text.pt'}"], "not a count file of b"),
        ([good, f"b={tmp_path / 'list.pt'}"], "not a count file of b"),
        ([good, f"b={tmp_path / 'none.pt'}"], "cannot read the counts of b"),
        ([good, good], "the class 'a' is given twice"),
        ([good, str(tmp_path / "text.pt")], "not both kinds"),
        ([str(tmp_path / "text.pt")], "not a statistics file"),
    ):
        with pytest.raises(CVoiceError, match=message):
            select_masks(sources, tmp_path / "out", SelectOptions())
    assert not (tmp_path / "out").exists()


def test_a_count_file_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.write_text, (tmp_path / "owned", "x"))

    torch.save({"token_num": 1, "question_num": 1, "over_zero": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CVoiceError, match="not a count file"):
        load_counts({"a": tmp_path / "evil.pt"})
    assert not (tmp_path / "owned").exists()


def test_counts_alone_are_enough_for_vape_alone(tmp_path: Path) -> None:
    sources = [save_counts(tmp_path, name, np.ones((2, 3)), 5, 5) for name in "ab"]
    for options in (SelectOptions(method="contrast"), SelectOptions(language_bar=0.9)):
        with pytest.raises(CVoiceError, match="enough for --method vape"):
            select_masks(sources, tmp_path / "out", options)
