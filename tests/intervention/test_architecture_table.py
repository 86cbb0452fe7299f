"""The page about architectures is made from the code, and its names on disk are those of saved checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from cvoice_foundation.errors import CVoiceError
from intervention.architecture_table import render
from intervention.neurons import (
    Architecture,
    architecture_of,
    find_neurons,
    known_architectures,
    register_neurons,
)
from tests.tiny_models import DENSE, MIXTURES, tiny_model


def test_page_is_made_from_the_code() -> None:
    page = Path(__file__).parents[2] / "docs" / "architectures.md"
    assert page.read_text(encoding="utf-8") == render(), (
        "run: python -m intervention.architecture_table > docs/architectures.md"
    )


def test_every_model_type_stands_in_the_page() -> None:
    for model_type in known_architectures():
        assert model_type in render()


@pytest.mark.parametrize("model_type", [*DENSE, *MIXTURES])
def test_names_on_disk_hold_the_same_weights(model_type: str, tmp_path: Path) -> None:
    """Down projections in the checkpoint that save_pretrained writes, by the table's first name, equal those here."""
    model = tiny_model(model_type)
    model.save_pretrained(tmp_path)
    architecture = architecture_of(model.config)
    (shard,) = tmp_path.glob("*.safetensors")
    with safe_open(shard, "pt") as checkpoint:
        for mlp in find_neurons(model):
            stored = checkpoint.get_tensor(architecture.names_on_disk(mlp.layer, mlp.expert)[0])
            axis = mlp.axis
            if mlp.experts is not None:
                assert isinstance(mlp.expert, int)
                axis = mlp.experts.axis_on_disk
                stored = stored[mlp.expert] if stored.ndim == 3 else stored
            assert mlp.weight is not None
            assert stored.shape[axis] == mlp.width
            assert torch.equal(stored, mlp.weight if axis == mlp.axis else mlp.weight.T)


def test_an_unknown_architecture_is_refused_and_can_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    from intervention import architectures

    monkeypatch.setattr(architectures, "_ARCHITECTURES", dict(architectures._ARCHITECTURES))
    model = tiny_model("llama")
    model.config.model_type = "qwen9"
    with pytest.raises(CVoiceError, match=r"'qwen9' is not known.*register_neurons"):
        find_neurons(model)
    register_neurons("qwen9", Architecture("model.layers", "mlp.down_proj", "mlp.gate_proj", "gate"))
    assert [mlp.width for mlp in find_neurons(model)] == [56, 56, 56]
    register_neurons("qwen9", Architecture("model.layers", "mlp.w2", None, "input"))
    with pytest.raises(CVoiceError, match="does not have the parts of a qwen9"):
        find_neurons(model)


def test_an_mlp_that_an_architecture_does_not_have_has_no_name() -> None:
    table = known_architectures()
    assert table["mixtral"].names_on_disk(3, 5) == ("model.layers.3.block_sparse_moe.experts.5.w2.weight",)
    for model_type, expert in (("mixtral", None), ("mixtral", "shared"), ("llama", 0)):
        with pytest.raises(CVoiceError, match="no MLP of the kind"):
            table[model_type].names_on_disk(0, expert)  # type: ignore[arg-type]


def test_an_activation_function_whose_sign_is_not_its_arguments_is_refused() -> None:
    config = tiny_model("llama").config
    config.hidden_act = "tanhshrink"
    with pytest.raises(CVoiceError, match="whether a neuron fires cannot be read"):
        architecture_of(config)
    assert json.loads(config.to_json_string())["model_type"] == "llama"
