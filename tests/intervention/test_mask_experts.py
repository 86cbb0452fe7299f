"""Expert lines of the mask file: reading, writing, order, identity, union, parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvoice_foundation.errors import CVoiceError
from intervention.architectures import SHARED
from intervention.mask import NeuronMask, union
from tests.tiny_masks import tiny_mask

_neurons = st.sets(st.integers(0, 55), min_size=1, max_size=6).map(lambda chosen: tuple(sorted(chosen)))
_places = st.tuples(st.integers(0, 2), st.one_of(st.none(), st.integers(0, 2**31 - 1), st.just(SHARED)))
_layers = st.dictionaries(_places, _neurons, max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layers=_layers, means=st.one_of(st.none(), st.floats(-1e6, 1e6)))
def test_file_round_trip(layers: Any, means: float | None, tmp_path: Path) -> None:
    mask = tiny_mask(layers, means=means, num_neurons=56)
    mask.save(tmp_path / "m.jsonl")
    again = NeuronMask.load(tmp_path / "m.jsonl")
    assert again == mask
    assert again.sha256 == mask.sha256


def test_a_line_names_its_expert_behind_its_layer(tmp_path: Path) -> None:
    mask = tiny_mask({(1, SHARED): (4,), (1, 5): (1, 2), (0, None): (3,)}, means=0.0)
    mask.save(tmp_path / "m.jsonl")
    lines = (tmp_path / "m.jsonl").read_text().splitlines()[1:]
    assert [list(json.loads(line)) for line in lines] == [
        ["layer", "neurons", "means"],
        ["layer", "expert", "neurons", "means"],
        ["layer", "expert", "neurons", "means"],
    ]
    assert [json.loads(line).get("expert") for line in lines] == [None, 5, SHARED]


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([{"layer": 0, "expert": "all", "neurons": [1]}], "line 2: \"expert\" is 'all'"),
        ([{"layer": 0, "expert": -1, "neurons": [1]}], 'line 2: "expert" is -1'),
        ([{"layer": 0, "expert": True, "neurons": [1]}], 'line 2: "expert" is True'),
        ([{"layer": 0, "expert": 1.0, "neurons": [1]}], 'line 2: "expert" is 1.0'),
        ([{"layer": 0, "expert": 2**80, "neurons": [1]}], 'line 2: "expert" is'),
        (
            [{"layer": 0, "expert": 3, "neurons": [1]}, {"layer": 0, "expert": 3, "neurons": [2]}],
            "line 3: layer 0, expert 3 follows layer 0, expert 3",
        ),
        (
            [{"layer": 0, "expert": SHARED, "neurons": [1]}, {"layer": 0, "expert": 3, "neurons": [2]}],
            "line 3: layer 0, expert 3 follows layer 0, expert shared",
        ),
        ([{"layer": 0, "expert": 3, "neurons": [1]}, {"layer": 0, "neurons": [2]}], "line 3: layer 0 follows layer 0"),
    ],
)
def test_wrong_lines_are_refused_by_number(lines: list[Any], complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    content = [tiny_mask({0: (1,)}).header(), *lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in content))
    with pytest.raises(CVoiceError) as error:
        NeuronMask.load(path)
    assert complaint in str(error.value)


@given(first=_layers, second=_layers)
@settings(max_examples=60, deadline=None)
def test_union_holds_the_neurons_of_both_by_expert(first: Any, second: Any) -> None:
    joined = union([tiny_mask(first, means=1.0), tiny_mask(second, means=1.0)])
    found = {(line.layer, line.expert): set(line.neurons) for line in joined.layers}
    assert found == {p: {*first.get(p, ()), *second.get(p, ())} for p in {*first, *second}}


def test_parts_of_a_mask() -> None:
    mask = tiny_mask({(0, None): (3,), (1, 0): (1,), (1, 5): (1, 2), (1, SHARED): (4,), (2, 5): (7,)})
    places = [(line.layer, line.expert) for line in mask.only(experts=(5, SHARED)).layers]
    assert places == [(1, 5), (1, SHARED), (2, 5)]
    assert [(line.layer, line.expert) for line in mask.only(layers=(0, 2)).layers] == [(0, None), (2, 5)]
    assert mask.only(layers=(1,), experts=(None, 0)).num_masked == 1
    assert mask.only(layers=(1,)).sha256 != mask.sha256
    with pytest.raises(CVoiceError, match="has no neurons in layers"):
        mask.only(layers=(0,), experts=(5,))
