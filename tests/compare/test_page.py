"""The page says what the numbers say, needs no network, escapes what models write, and opens in a real browser."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from compare.page.build import page, read_effects, write_page
from compare.page.sentences import headlines
from cvoice_foundation.errors import CVoiceError

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
EVIL = "<script>document.title = 'owned'</script>"


def estimate(difference: float, half: float = 0.1) -> dict[str, Any]:
    return {"difference": difference, "low": difference - half, "high": difference + half, "method": "bootstrap"} | {
        "documents": 64,
        "pairs": 16,
        "changed": 12,
    }


def cell(mask: str, value: str, difference: float, claimed: bool = False, family: str = "letters") -> dict[str, Any]:
    languages = {"zh": estimate(difference - 0.02), "en": estimate(difference + 0.02)}
    return {"mask": mask, "value": value, "family": family, "acc": estimate(difference), "p": 0.001, "p_holm": 0.01} | {
        "rank": 1 if claimed else 4,
        "of": 21,
        "controls": [-0.02, 0.0, 0.03],
        "claimed": claimed,
        "margin": None,
        "baseline": 0.9,
        "by_language": languages,
        "between_languages": estimate(-0.04),
    }


def effects() -> dict[str, Any]:
    values = ("integrity", "freedom")
    cells = [
        cell(m, v, -0.41 if m == v == "integrity" else -0.01, m == v == "integrity") for m in values for v in values
    ]
    cells += [cell("integrity", "integrity", -0.05, family="recog")]
    mask = {"sha256": "0" * 64, "neurons": 7, "of_layers": 3, "layers": {"0": 2, "2": 5}, "method": {"name": "vape"}}
    story = {"zh": "秀兰在县城开琴行。", "en": "Xiulan runs a piano shop in a county town."}
    flip = {
        "mask": "integrity",
        "item": "integrity-0001a",
        "options": {"A": "Keeps it.", "B": "Sends it."},
        "aligned": "A",
    }
    return {
        "format": "cvoice-effects",
        "version": 2,
        "settings": {"model": "some/model", "tasks": ["cvoice_zh"], "mode": "zero", "controls": 20, "seed": 0}
        | {"batch_size": 8, "dtype": "auto"},
        "matched_by": "layer",
        "created": {"cvoice": "0.1.0"},
        "masks": [mask | {"name": name, "never_active": 0} for name in values],
        "cells": cells,
        "specificity": [{"mask": "integrity", "own": estimate(-0.41), "difference": estimate(-0.4)}],
        "ability": [],
        "flips": {"integrity": {"changed": 9, "of": 64}, "freedom": {"changed": 0, "of": 64}},
        "flipped": [
            flip
            | {"family": "letters", "language": "zh", "story": story["zh"], "before": "A", "after": "B"}
            | {"said_before": "", "said_after": ""},
            flip
            | {"family": "gen", "language": "en", "story": story["en"], "before": "A", "after": "unparsed"}
            | {"said_before": "I choose A.", "said_after": EVIL},
        ],
        "remarks": ["A remark."],
    }


def test_headlines_are_made_from_the_numbers() -> None:
    told = headlines(effects())
    assert told[0] == (
        "Of 2 masks, 1 changed the choices of the own value beyond chance and beyond random masks of the same size. "
        "The largest: integrity, −41.0 points (95 % interval −51.0 to −31.0) of 90 %, on 16 pairs."
    )
    assert "No effect on another value than the mask's own is claimed." in told
    assert any("choice moves by −41.0 points and its recognition by −5.0" in sentence for sentence in told)


def test_where_nothing_is_claimed_the_page_says_so_first() -> None:
    nothing = effects()
    for found in nothing["cells"]:
        found["claimed"] = False
    assert headlines(nothing)[0].startswith(
        "No effect of a mask on its own value can be claimed (2 masks, 16 pairs a value)."
    )
    assert headlines(effects() | {"cells": []})[0].startswith("No task of C-voice was run")


def test_every_number_of_the_matrix_stands_in_it() -> None:
    text = page(effects())
    titles = re.findall(r'title="(\w+) on (\w+): ([+−][\d.]+) points', text)
    assert titles == [
        ("integrity", "integrity", "−41.0"),
        ("integrity", "freedom", "−1.0"),
        ("freedom", "integrity", "−1.0"),
        ("freedom", "freedom", "−1.0"),
        ("integrity", "integrity", "−5.0"),
    ]
    assert text.count("<b>*</b>") == 1


def test_the_page_is_whole_escaped_and_fetches_nothing() -> None:
    text = page(effects())
    assert EVIL not in text
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert "url(" not in text
    assert "@import" not in text
    open_tags: list[str] = []

    class Check(HTMLParser):
        def handle_starttag(self, tag: str, attrs: Any) -> None:
            if tag not in ("meta", "link", "br"):
                open_tags.append(tag)

        def handle_startendtag(self, tag: str, attrs: Any) -> None:
            pass

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Check().feed(text)
    assert open_tags == []


def test_a_full_set_of_masks_stays_small() -> None:
    many = effects()
    values = [f"value{n}" for n in range(12)]
    many["cells"] = [cell(m, v, -0.1, m == v) for m in values for v in values]
    many["flipped"] = [copy.deepcopy(many["flipped"][0]) | {"story": "x" * 900} for _ in range(12 * 12)]
    assert len(page(many).encode()) < 5_000_000


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "other"}', '{"format": "cvoice-effects", "version": 9}'])
def test_other_files_are_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "effects.json").write_text(content, "utf-8")
    with pytest.raises(CVoiceError, match="not an effects file"):
        read_effects(tmp_path)


def test_a_page_is_made_anew_from_its_numbers(tmp_path: Path) -> None:
    (tmp_path / "effects.json").write_text(json.dumps(effects()), "utf-8")
    first = write_page(read_effects(tmp_path), tmp_path / "report.html").read_bytes()
    assert write_page(effects(), tmp_path / "again.html").read_bytes() == first


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: the page cannot be opened in a real browser")
def test_a_real_browser_shows_it(tmp_path: Path) -> None:
    path = write_page(effects(), tmp_path / "report.html")
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--enable-logging=stderr", "--log-level=0", "--virtual-time-budget=2000", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, "no message of the page's own"
    assert "<title>What masks change in some/model</title>" in done.stdout, "no script has run"
    assert "秀兰在县城开琴行。" in done.stdout
    assert "&lt;script&gt;document.title" in done.stdout
    assert done.stdout.count("<svg") == 2
    picture = tmp_path / "page.png"
    shot = [*command[:5], "--hide-scrollbars", "--window-size=390,2000", f"--screenshot={picture}", path.as_uri()]
    subprocess.run(shot, capture_output=True, timeout=120, check=True)
    assert picture.stat().st_size > 20_000, "something was drawn"
