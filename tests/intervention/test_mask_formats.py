"""LAPE-style files become masks and come back index for index; nothing else gets in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cvoice_foundation.errors import CVoiceError
from intervention.ablation import ablate
from intervention.mask import NeuronMask
from intervention.mask_formats import export_masks, import_masks
from tests.tiny_checkpoint import tiny_checkpoint
from tests.tiny_masks import tiny_mask
from tests.tiny_models import some_tokens, tiny_model

indices = st.sets(st.integers(0, 10**6), max_size=6).map(lambda found: torch.tensor(sorted(found), dtype=torch.long))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda depth: st.lists(st.lists(indices, min_size=depth, max_size=depth), min_size=1, max_size=4)
    )
)
def test_there_and_back(tmp_path_factory: pytest.TempPathFactory, classes: list[list[torch.Tensor]]) -> None:
    folder = tmp_path_factory.mktemp("masks")
    torch.save(classes, folder / "in.pth")
    names = [f"class-{number}" for number in range(len(classes))]
    masks = import_masks(folder / "in.pth", names, "nobody/nothing", folder / "out")
    assert [NeuronMask.load(folder / "out" / f"{name}.jsonl") for name in names] == masks
    for mask, layers in zip(masks, classes, strict=True):
        assert {line.layer: line.neurons for line in mask.layers} == {
            layer: tuple(found.tolist()) for layer, found in enumerate(layers) if len(found)
        }
        assert (mask.model.name, mask.model.num_layers, mask.model.num_neurons) == ("nobody/nothing", len(layers), None)
    export_masks(masks, folder / "back.pth")
    back = torch.load(folder / "back.pth", weights_only=True)
    assert all(
        torch.equal(a, b) for one, other in zip(classes, back, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_indices_of_any_integer_type_and_order(tmp_path: Path) -> None:
    torch.save([[torch.tensor([5, 2], dtype=torch.int32), torch.tensor([], dtype=torch.int16)]], tmp_path / "in.pth")
    (mask,) = import_masks(tmp_path / "in.pth", ["en"], "nobody/nothing", tmp_path)
    assert [(line.layer, line.neurons) for line in mask.layers] == [(0, (2, 5))]


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.path, "x"))


def long(*places: int) -> torch.Tensor:
    return torch.tensor(places, dtype=torch.long)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "a list without content"),
        ("text", "holds a str"),
        ([[]], "class 0: holds a list without content"),
        ([[long(1)], [long(1), long(2)]], "class 1: 2 layers, and class 0 has 1"),
        ([[torch.tensor([0.5])]], r"layer 0: holds a tensor of float32 \(1,\)"),
        ([[torch.tensor([[1]])]], r"a tensor of int64 \(1, 1\)"),
        ([[torch.tensor([True])]], "a mask of true and false"),
        ([[long(-1)]], "the index -1 is negative"),
        ([[long(3, 3)]], "an index stands twice"),
        ([[[1, 2]]], "holds a list"),
        ({"model.layers.3": {"steering_vector": torch.zeros(1, 4), "steering_coefficient": 1.0}}, "--model steered"),
        ({"over_zero": torch.zeros(2, 3), "token_num": 3.0, "question_num": 1}, "cvoice select NAME="),
        ({"a": 1}, "a mapping of a"),
        ([[long(1)], [long(1)]], "has 2 classes, and --names gives 1"),
    ],
)
def test_what_is_no_mask_file_is_told(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "in.pth")
    with pytest.raises(CVoiceError, match=message):
        import_masks(tmp_path / "in.pth", ["en"], "nobody/nothing", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_told(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    folder = tmp_path_factory.mktemp("noise")
    (folder / "in.pth").write_bytes(noise)
    with pytest.raises(CVoiceError):
        import_masks(folder / "in.pth", ["en"], "nobody/nothing", folder / "out")


def test_a_file_cannot_run_code(tmp_path: Path) -> None:
    torch.save([[Evil(tmp_path / "owned")]], tmp_path / "in.pth")
    with pytest.raises(CVoiceError, match="not a file of masks"):
        import_masks(tmp_path / "in.pth", ["en"], "nobody/nothing", tmp_path / "out")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("names", [["en", "en"], ["en", "z h"], ["en", ""]])
def test_names_are_checked(tmp_path: Path, names: list[str]) -> None:
    torch.save([[long(1)], [long(2)]], tmp_path / "in.pth")
    with pytest.raises(CVoiceError, match="--names"):
        import_masks(tmp_path / "in.pth", names, "nobody/nothing", tmp_path / "out")


def test_the_shape_is_checked_where_the_model_lies_here(tmp_path: Path) -> None:
    model = tiny_checkpoint(tmp_path / "model", "opt")
    for layers, message in (([long(1)] * 2, "has 3"), ([long(1), long(), long(56)], "index 56, and .* has 56 neurons")):
        torch.save([layers], tmp_path / "in.pth")
        with pytest.raises(CVoiceError, match=message):
            import_masks(tmp_path / "in.pth", ["en"], model, tmp_path / "out")
    torch.save([[long(1), long(), long(55)]], tmp_path / "in.pth")
    (mask,) = import_masks(tmp_path / "in.pth", ["en"], model, tmp_path / "out")
    assert (mask.model.architecture, mask.model.num_neurons) == ("OPTForCausalLM", 56)


@torch.no_grad()
def test_an_imported_mask_acts_and_is_checked_when_it_is_applied(tmp_path: Path) -> None:
    model = tiny_model("llama")
    torch.save([[long(1), long(), long(55)], [long(56), long(), long()]], tmp_path / "in.pth")
    good, bad = import_masks(tmp_path / "in.pth", ["en", "zh"], "nobody/nothing", tmp_path / "out")
    plain = model(some_tokens()).logits
    with ablate(model, good):
        assert not torch.equal(model(some_tokens()).logits, plain)
    with pytest.raises(CVoiceError, match="56"), ablate(model, bad):
        pass
    assert torch.equal(model(some_tokens()).logits, plain)


def test_what_the_format_cannot_hold_is_told(tmp_path: Path) -> None:
    for masks, message in (
        ([tiny_mask({(1, 3): (2,)})], "holds neurons of experts"),
        ([tiny_mask({1: (2,)}), tiny_mask({1: (2,)}, num_layers=4)], "different models"),
        ([tiny_mask({1: (2,)}, name="a"), tiny_mask({1: (2,)}, name="b")], "different models"),
    ):
        with pytest.raises(CVoiceError, match=message):
            export_masks(masks, tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([1, 2], dtype=torch.uint16),
        torch.tensor([1, 2], dtype=torch.uint64),
        torch.tensor([0, 1]).to_sparse(),
        torch.tensor([1]).expand(1000),
    ],
)
def test_odd_tensors_are_told(tmp_path: Path, value: torch.Tensor) -> None:
    """A tensor that repeats one number a billion times would be small on disk and fill memory."""
    torch.save([[value]], tmp_path / "in.pth")
    with pytest.raises(CVoiceError):
        import_masks(tmp_path / "in.pth", ["en"], "nobody/nothing", tmp_path / "out")


def test_masks_of_no_model_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(CVoiceError, match="is of no model"):
        export_masks([tiny_mask({1: (2,)}, num_layers=200_000)], tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()
