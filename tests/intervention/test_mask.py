"""The mask file: every mistake is one line that names the place; what is written is what is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvoice_foundation.errors import CVoiceError
from intervention.mask import MaskedLayer, ModelIdentity, NeuronMask, union
from tests.tiny_masks import tiny_mask

HEADER: dict[str, Any] = {
    "format": "cvoice-neuron-mask",
    "version": 1,
    "value": "patriotism",
    "language": "both",
    "model": {"name": "m", "revision": None, "architecture": "Qwen2ForCausalLM", "num_layers": 4, "num_neurons": 100},
    "method": {"name": "vape", "top_rate": 0.01},
    "corpus": {"sha256": "ab", "tokens": 3},
    "created": {"cvoice": "0.1.0"},
    "note": "kept",
}


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.jsonl",
        HEADER,
        {"layer": 0, "neurons": [5, 77], "means": [0.013, -0.2]},
        {"layer": 3, "neurons": [1]},
    )
    mask = NeuronMask.load(path)
    assert mask.layers == (MaskedLayer(0, (5, 77), (0.013, -0.2)), MaskedLayer(3, (1,), None))
    assert (mask.value, mask.language, mask.num_masked, mask.extra) == ("patriotism", "both", 3, {"note": "kept"})
    mask.save(tmp_path / "again.jsonl")
    assert NeuronMask.load(tmp_path / "again.jsonl") == mask
    assert list(tmp_path.iterdir()).__len__() == 2


def test_identity_is_of_the_content_not_of_the_spelling(tmp_path: Path) -> None:
    plain = NeuronMask.load(write(tmp_path / "a.jsonl", HEADER, {"layer": 0, "neurons": [5]}))
    text = json.dumps(dict(reversed(HEADER.items())), indent=None) + "\r\n" + '{"neurons":[5],  "layer":0}\r\n'
    spelled = tmp_path / "b.jsonl"
    spelled.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert NeuronMask.load(spelled).sha256 == plain.sha256
    assert NeuronMask.load(write(tmp_path / "c.jsonl", HEADER, {"layer": 0, "neurons": [6]})).sha256 != plain.sha256


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "not a mask file"),
        ([{"a": 1}], "not a mask file"),
        ([HEADER | {"version": 2}], "version 2"),
        ([HEADER | {"value": "a b"}], "line 1: \"value\" is 'a b'"),
        ([HEADER | {"model": None}], "line 1"),
        ([HEADER | {"model": HEADER["model"] | {"num_layers": -1}}], "num_layers"),
        ([HEADER, '{"layer": 0, "neurons": [1, 2'], "line 2: not a JSON object"),
        ([HEADER, {"layer": 0, "neurons": [100]}], "line 2: neuron 100, and a layer has 100 (0-99)"),
        ([HEADER, {"layer": 0, "neurons": [-1]}], "line 2: neuron -1 is negative"),
        ([HEADER, {"layer": 0, "neurons": [3, 3]}], "line 2: neuron 3 stands twice"),
        ([HEADER, {"layer": 0, "neurons": [4, 3]}], "line 2: neuron 3 follows 4"),
        ([HEADER, {"layer": 0, "neurons": []}], "line 2: no neurons"),
        ([HEADER, {"layer": 4, "neurons": [1]}], "line 2: layer 4, and the model has 4 (0-3)"),
        ([HEADER, {"layer": 1, "neurons": [1]}, {"layer": 1, "neurons": [2]}], "line 3: layer 1 follows layer 1"),
        ([HEADER, {"layer": 0, "neurons": [1.5]}], "line 2: neurons should be whole numbers"),
        ([HEADER, {"layer": 0, "neurons": [True]}], "line 2: neurons should be whole numbers"),
        ([HEADER, {"layer": 0, "neurons": [1], "means": []}], "line 2: 0 means for 1 neurons"),
        ([HEADER, '{"layer": 0, "neurons": [1], "means": [NaN]}\n'], "line 2: not a JSON object"),
        ([HEADER, '{"layer": 0, "neurons": [1], "means": [1e999]}\n'], "finite"),
        ([HEADER, "[" * 100_000 + "\n"], "line 2: not a JSON object"),
        ([HEADER, {"layer": 10**30, "neurons": [1]}], "line 2"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, lines: list[object], message: str) -> None:
    path = write(tmp_path / "m.jsonl", *lines)
    with pytest.raises(CVoiceError) as caught:
        NeuronMask.load(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CVoiceError, match="cannot read this mask file"):
        NeuronMask.load(tmp_path / "none.jsonl")


def test_an_unwritable_folder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CVoiceError, match="cannot be written"):
        tiny_mask({0: (1,)}).save(tmp_path / "no" / "m.jsonl")
    assert list(tmp_path.iterdir()) == []


indices = st.lists(st.integers(0, 99), min_size=1, max_size=8, unique=True).map(sorted)


@st.composite
def masks(draw: st.DrawFn) -> NeuronMask:
    layers = []
    for layer in sorted(draw(st.sets(st.integers(0, 5), max_size=4))):
        neurons = tuple(draw(indices))
        means = draw(st.none() | st.just(tuple(neuron / 7 for neuron in neurons)))
        layers.append(MaskedLayer(layer, neurons, means))
    model = ModelIdentity(draw(st.none() | st.text()), None, None, 6, draw(st.sampled_from([None, 100])))
    value = draw(st.from_regex(r"[A-Za-z0-9_-]+", fullmatch=True))
    return NeuronMask(value, model, tuple(layers), method={"name": draw(st.text())})


@given(mask=masks())
def test_any_mask_survives_the_file(tmp_path_factory: pytest.TempPathFactory, mask: NeuronMask) -> None:
    path = tmp_path_factory.mktemp("masks") / "m.jsonl"
    mask.save(path)
    assert NeuronMask.load(path) == mask
    assert NeuronMask.load(path).sha256 == mask.sha256


@given(first=masks(), second=masks())
def test_a_union_holds_just_the_neurons_of_its_parts(first: NeuronMask, second: NeuronMask) -> None:
    model = ModelIdentity(None, None, None, 6, None)
    parts = [NeuronMask(m.value, model, m.layers) for m in (first, second)]
    joined = union(parts)
    everything = {(layer.layer, neuron) for part in parts for layer in part.layers for neuron in layer.neurons}
    assert {(layer.layer, neuron) for layer in joined.layers for neuron in layer.neurons} == everything
    assert joined.value == f"{parts[0].value}+{parts[1].value}"


def test_masks_of_different_models_are_not_joined() -> None:
    with pytest.raises(CVoiceError, match="different models"):
        union([tiny_mask({0: (1,)}, num_layers=3), tiny_mask({0: (1,)}, num_layers=4)])


def test_joined_means_must_agree() -> None:
    with pytest.raises(CVoiceError, match="layer 0, neuron 1"):
        union([tiny_mask({0: (1,)}, means=0.1), tiny_mask({0: (1,)}, means=0.2)])
    assert union([tiny_mask({0: (1,)}, means=0.1), tiny_mask({0: (2,)}, means=0.5)]).layers == (
        MaskedLayer(0, (1, 2), (0.2, 0.7)),
    )
