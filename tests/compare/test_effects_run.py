"""The whole way on a model whose value neurons are known: theirs is claimed, others' is not, and the page says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compare.effects_run import measure_effects
from compare.page.build import page
from compare.runs import Settings
from tests.tiny_masks import tiny_mask
from tests.value_circuit import LAYER, NEURONS, VALUES, circuit_items, circuit_model

INERT = (2, 20)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("circuit")
    model = circuit_model(folder / "model")
    data = circuit_items(folder / "data")
    (folder / "masks").mkdir()
    for name, neurons in (("integrity", (NEURONS["integrity"],)), ("nothing", INERT)):
        mask = tiny_mask({LAYER: neurons}, num_layers=2, num_neurons=32, value=name)
        mask.save(folder / "masks" / f"{name}.jsonl")
    tasks = tuple(f"cvoice_en_{value}" for value in VALUES)
    settings = Settings(model, tasks, batch_size=20, dtype="float32", data_dir=str(data))
    out = folder / "out"
    measure_effects(settings, folder / "masks", out, controls=19, device="cpu", progress=False)
    return dict(json.loads((out / "effects.json").read_text("utf-8")))


def test_the_neuron_of_a_value_is_found_and_no_other(found: dict[str, Any]) -> None:
    assert {cell["baseline"] for cell in found["cells"]} == {1.0}
    effects = {(cell["mask"], cell["value"]): cell["acc"]["difference"] for cell in found["cells"]}
    assert effects == {
        ("integrity", "integrity"): -0.5,
        ("integrity", "freedom"): 0,
        ("nothing", "integrity"): 0,
        ("nothing", "freedom"): 0,
    }
    claimed = [cell for cell in found["cells"] if cell["claimed"]]
    assert [(cell["mask"], cell["value"], cell["rank"], cell["of"]) for cell in claimed] == [
        ("integrity", "integrity", 1, 20)
    ]
    own = claimed[0]
    assert own["p"] == 2 / 2**10, "all of ten items changed, so two of 2^10 sign vectors are as extreme"
    assert own["p_holm"] == 4 * own["p"]
    assert own["controls"] == [0] * 19, "random masks never hold the mask's own neuron"
    assert own["acc"]["low"] <= -0.5 <= own["acc"]["high"] < 0
    assert own["twins"] is None
    assert found["specificity"][0]["difference"]["difference"] == -0.5
    assert found["loaded"]["dtype"] == "torch.float32"


def test_masks_are_tested_together(tmp_path: Path) -> None:
    model, data = circuit_model(tmp_path / "model"), circuit_items(tmp_path / "data", 4)
    (tmp_path / "masks").mkdir()
    for name in VALUES:
        tiny_mask({LAYER: (NEURONS[name],)}, num_layers=2, num_neurons=32, value=name).save(
            tmp_path / "masks" / f"{name}.jsonl"
        )
    tasks = tuple(f"cvoice_en_{value}" for value in VALUES)
    settings = Settings(model, tasks, batch_size=20, dtype="float32", data_dir=str(data))
    result = measure_effects(settings, tmp_path / "masks", tmp_path / "out", controls=19, device="cpu", progress=False)
    assert not any(cell["claimed"] for cell in result["cells"]), "with four pairs no cell can be"
    told = result["together"]
    assert (told["masks"], told["acc"]["difference"], told["acc"]["pairs"]) == (tuple(VALUES[::-1]), -0.5, 8)
    assert told["p"] == 2 / 2**8, "all of eight items changed"
    assert (told["rank"], told["of"], told["claimed"]) == (1, 20, True)
    assert "All 2 masks together change their own values by −50.0 points" in page(result)


def test_its_flips_and_its_page(found: dict[str, Any]) -> None:
    assert found["flips"] == {"integrity": {"changed": 10, "of": 40}, "nothing": {"changed": 0, "of": 40}}
    assert {(flip["before"], flip["after"], flip["aligned"]) for flip in found["flipped"]} == {("A", "B", "A")}
    text = page(found)
    assert "Of 1 mask, 1 changed the choices of the own value beyond chance and beyond random masks" in text
    assert "No effect on another value than the mask&#x27;s own is claimed." in text
    assert "Upholds integrity in case 10." in text
    assert found["remarks"] == []
    told = found["perplexity"]
    assert {(one["mask"], one["language"], one["log_ratio"]["documents"]) for one in told} == {
        ("integrity", "en", 100),
        ("nothing", "en", 100),
    }
