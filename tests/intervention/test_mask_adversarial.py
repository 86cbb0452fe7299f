"""Mask files from strangers: whatever is in them, one line of error or a mask; bounded memory; nothing written."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvoice_foundation.errors import CVoiceError
from intervention.mask import NeuronMask
from tests.tiny_masks import tiny_mask

HEADER: dict[str, Any] = tiny_mask({0: (1,)}, num_neurons=56).header()
LINES = [{"layer": 0, "neurons": [1, 2], "means": [0.5, -1.0]}, {"layer": 2, "expert": 3, "neurons": [0]}]
FILE = "".join(json.dumps(line) + "\n" for line in (HEADER, *LINES))

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**40), 10**40),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["cvoice-neuron-mask", "shared", "\ud800", "\x00", "NaN", -1, 2**31, 2**63, 1e308]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)),
    max_leaves=12,
)
KEYS = (
    "format",
    "version",
    "value",
    "language",
    "model",
    "method",
    "corpus",
    "created",
    "layer",
    "neurons",
    "means",
    "expert",
)


def read(path: Path, content: bytes) -> NeuronMask | None:
    """A mask, or None where one line says what is wrong."""
    path.write_bytes(content)
    try:
        mask = NeuronMask.load(path)
    except CVoiceError as error:
        told = str(error)
        assert "\n" not in told
        assert str(path) in told
        return None
    # What is taken is a mask: it has an identity, and survives its own file.
    assert len(mask.sha256) == 64
    mask.save(path)
    assert NeuronMask.load(path) == mask
    return mask


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("masks") / "mask.jsonl"


quiet = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quiet
@given(st.sampled_from([0, 1, 2]), st.sampled_from(KEYS), values)
def test_any_value_in_any_place(path: Path, line: int, key: str, value: Any) -> None:
    lines = [HEADER, *LINES]
    lines[line] = lines[line] | {key: value}
    read(path, "".join(json.dumps(part) + "\n" for part in lines).encode("utf-8", "surrogatepass"))
    assert [file.name for file in path.parent.iterdir()] == ["mask.jsonl"]


@quiet
@given(st.lists(st.tuples(st.integers(0, len(FILE) - 1), st.integers(0, 255)), max_size=6), st.integers(0, len(FILE)))
def test_any_bytes_changed_and_any_cut(path: Path, changes: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(FILE.encode())
    for place, byte in changes:
        content[place] = byte
    read(path, bytes(content[:cut]))


@quiet
@given(st.binary(max_size=400))
def test_any_bytes_behind_a_header(path: Path, noise: bytes) -> None:
    read(path, json.dumps(HEADER).encode() + b"\n" + noise)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_and_windows_line_ends_are_taken(path: Path, mark: bytes, end: str) -> None:
    mask = read(path, mark + FILE.replace("\n", end).encode())
    assert mask is not None
    assert mask.num_masked == 3


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"layer": 0, "neurons": ' + "[" * 50_000 + "]" * 50_000 + "}",
        '{"layer": 0, "neurons": [1], "means": [NaN]}',
        '{"layer": 0, "neurons": [1], "means": [Infinity]}',
        '{"layer": 0, "neurons": [1], "means": [1e999]}',
        '{"layer": 0, "neurons": [1e3]}',
        '{"layer": 0, "neurons": [' + "9" * 5_000 + "]}",
        '{"layer": 1' + "0" * 5_000 + ', "neurons": [1]}',
        '{"layer": 0, "neurons": [true]}',
        '{"layer": 0, "neurons": "12"}',
        '{"layer": 0, "neurons": [1, 1]}',
        '{"layer": 0, "neurons": [2, 1]}',
        '{"layer": 0, "neurons": []}',
        '{"layer": 7, "neurons": [1]}',
        '{"layer": 0, "neurons": [56]}',
        '{"layer": 0, "expert": -1, "neurons": [1]}',
        '{"layer": 0, "expert": "Shared", "neurons": [1]}',
        '{"layer": 0, "neurons": [1], "means": [1, 2]}',
        '"\\ud800"',
        "null",
    ],
)
def test_a_hostile_line_is_one_line_of_error(path: Path, line: str) -> None:
    path.write_text(json.dumps(HEADER) + "\n" + line + "\n", "utf-8")
    with pytest.raises(CVoiceError, match="line 2") as error:
        NeuronMask.load(path)
    assert len(str(error.value)) < 600, "an error does not repeat the file"


def test_half_characters_are_refused_and_whole_ones_kept(path: Path) -> None:
    """A lone surrogate could be read, and never written again."""
    for note, taken in (("\ud800", False), ("\ud83d\ude00", True), ("\\ud800", True)):
        content = json.dumps(HEADER | {"note": note}) + "\n" + json.dumps(LINES[0]) + "\n"
        assert (read(path, content.encode()) is not None) == taken


def test_a_million_lines_are_read_in_bounded_memory(path: Path) -> None:
    """Lines out of order are refused at the second one, and a long file is not held twice."""
    path.write_text(json.dumps(HEADER) + "\n" + '{"layer": 0, "neurons": [1]}\n' * 1_000_000, "utf-8")
    size = path.stat().st_size
    tracemalloc.start()
    with pytest.raises(CVoiceError, match="line 3"):
        NeuronMask.load(path)
    refused = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    header = HEADER | {"model": HEADER["model"] | {"num_layers": 1, "num_neurons": 2**30}}
    path.write_text(json.dumps(header) + "\n" + json.dumps({"layer": 0, "neurons": list(range(1_000_000))}) + "\n")
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    mask = NeuronMask.load(path)
    held = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert refused < 1_000_000 < size
    assert mask.num_masked == 1_000_000
    assert held < 150_000_000, "a hundred and fifty bytes a neuron"
