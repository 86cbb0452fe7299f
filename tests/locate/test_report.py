"""The report says what the numbers say, needs no network, and is the same twice."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cvoice_foundation.errors import CVoiceError
from locate import plots
from locate.report import write_report
from locate.select import SelectOptions
from locate.statistics_file import save_statistics
from locate.vape import VapeOptions
from tests.locate.test_statistics import statistics

OPTIONS = SelectOptions("contrast-frequency", VapeOptions(3 / 7), "both")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    sample = statistics()
    header = {**sample.header, "model": {"name": "<script>alert(1)</script>"}}
    save_statistics(replace(sample, header=header), tmp_path / "s.safetensors")
    return tmp_path / "s.safetensors"


def test_numbers_page_and_plots_agree(source: Path, tmp_path: Path) -> None:
    page = write_report(source, OPTIONS, tmp_path / "one", permutations=19, splits=3)
    text = page.read_text("utf-8")
    numbers = json.loads((tmp_path / "one" / "report.json").read_text("utf-8"))
    assert numbers["neurons"] == {"integrity": 3, "freedom": 3}
    null = numbers["null"]
    assert null["p"] == (1 + sum(n >= null["observed"] for n in null["permuted"])) / 20
    assert f"p = {null['p']:.3g}" in text
    means = [half["mean"] for half in numbers["split_half"]]
    assert f"share {sum(means) / 2:.2f} of their neurons on average" in text
    assert len(re.findall(r'src="data:image/png;base64,', text)) == 5
    pngs = sorted(path.name for path in (tmp_path / "one" / "plots").iterdir())
    assert pngs == ["layers.png", "null.png", "overlap.png", "stability.png", "sweep.png"]
    assert all((tmp_path / "one" / "plots" / name).read_bytes()[:4] == b"\x89PNG" for name in pngs)


def test_the_page_is_self_contained_and_escaped(source: Path, tmp_path: Path) -> None:
    text = write_report(source, OPTIONS, tmp_path / "one", permutations=5, splits=2).read_text("utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    open_tags: list[str] = []

    class Check(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("img", "meta", "br"):
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Check().feed(text)
    assert open_tags == []


def test_the_same_bytes_twice(source: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_report(source, SelectOptions(vape=VapeOptions(0.5, 0.3, 0.3)), tmp_path / name, permutations=5, splits=2)
    for path in (tmp_path / "one").rglob("*.*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_random_has_no_null(source: Path, tmp_path: Path) -> None:
    text = write_report(source, SelectOptions("random", VapeOptions(0.5)), tmp_path / "r", splits=2).read_text("utf-8")
    assert "Against chance" not in text


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(CVoiceError, match=r"pip install 'cvoice\[report\]'"):
        plots.stability([])
