"""The page says what the numbers say, needs no network, escapes what models write, and opens in a real browser."""

from __future__ import annotations

import copy
import json
import math
import re
import shlex
import shutil
import subprocess
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from compare.page import tables
from compare.page.build import page, read_effects, write_page
from compare.page.drawings import language_plot, layer_plot
from compare.page.sentences import headlines
from compare.runs import Settings
from cvoice.cli import app
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
        "twins": {"pairs": 16, "lost": 9, "won": 0, "p": 0.0039},
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
        "version": 3,
        "together": None,
        "settings": {"model": "some/model", "tasks": ["cvoice_zh"], "mode": "scale", "strength": 0.5, "controls": 20}
        | {"seed": 0, "batch_size": 8, "dtype": "auto", "limit": 40, "shots": None, "chat": True, "revision": None}
        | {"data_dir": "my items"},
        "matched_by": "layer",
        "created": {"cvoice": "0.1.0"},
        "masks": [mask | {"name": name, "never_active": 0} for name in values],
        "cells": cells,
        "specificity": [{"mask": "integrity", "own": estimate(-0.41), "difference": estimate(-0.4)}],
        "recognition": [
            {"mask": "integrity", "choice": estimate(-0.41), "recognition": estimate(-0.05)}
            | {"difference": estimate(-0.36)}
        ],
        "perplexity": [
            {"mask": name, "language": "en", "before": 12.0, "after": 12.0 * 2**power, "rank": 2, "of": 21}
            | {"log_ratio": estimate(power * math.log(2)), "controls": [0.01]}
            for name, power in (("integrity", 1), ("freedom", 0))
        ],
        "ability": [{"mask": "integrity", "task": "arc", "effect": estimate(-0.02)}],
        "loaded": {"dtype": "torch.float32"},
        "asked": {"cvoice_zh_integrity": "f" * 64},
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
    assert told[-3:] == [
        "Under integrity the own value's choice moves by −41.0 points (95 % interval −51.0 to −31.0) and its "
        "recognition by −5.0 points (95 % interval −15.0 to +5.0); within 16 pairs they differ by −36.0 points (95 % "
        "interval −46.0 to −26.0).",
        "Perplexity on neutral passages rises most under integrity (en): 2 times (95 % interval 1.81 to 2.21), from 12 "
        "to 24 on 64 passages, rank 2 of 21 among random masks.",
        "On tasks that ask about no value the largest loss is integrity's on arc: -0.020 (95 % interval -0.120 to "
        "+0.080, 64 documents).",
    ]


def test_where_nothing_is_claimed_the_page_says_so_first() -> None:
    nothing = effects()
    for found in nothing["cells"]:
        found["claimed"] = False
    assert headlines(nothing)[0].startswith(
        "No effect of a mask on its own value can be claimed (2 masks, 16 pairs a value)."
    )
    only_others = effects() | {"cells": [], "specificity": [], "recognition": []}
    assert "largest loss is integrity's on arc" in headlines(only_others)[-1]
    assert "Tasks that ask about no value" in page(only_others)
    assert headlines(only_others)[0].startswith("No task of C-voice was run")


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


def test_small_effects_look_pale() -> None:
    small = effects()
    for found in small["cells"]:
        found["acc"] = estimate(-0.01)
    shades = re.findall(r'<td[^>]*style="background:#(\w{6});color:(#\w+)"', page(small))
    assert shades
    assert all(int(shade[:2], 16) > 240 and text == "#1b1b1b" for shade, text in shades)


def test_the_command_on_the_page_gives_these_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    line = tables.command(effects()["settings"])
    assert "--data-dir 'my items'" in line
    got: dict[str, Any] = {}

    def measure(settings: Settings, masks: Path, out: Path, **others: Any) -> dict[str, Any]:
        got.update(
            asdict(settings) | {"tasks": list(settings.tasks)} | {key: others[key] for key in ("controls", "seed")}
        )
        return effects()

    monkeypatch.setattr("compare.effects_run.measure_effects", measure)
    done = CliRunner().invoke(app, shlex.split(line)[1:])
    assert done.exit_code == 0, done.output
    assert got == effects()["settings"]


def test_names_of_dots_do_not_cover_each_other() -> None:
    own = []
    for number in range(12):
        one = cell(f"value{number}", f"value{number}", -0.3)
        one["by_language"] = {"zh": estimate(-0.3 + 0.012 * number), "en": estimate(-0.3 - 0.011 * (number % 4))}
        own.append(one)
    drawing = language_plot(own)
    assert drawing.count("<circle") == 12
    named = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(start|end)" font-size="11">(value\d+)<', drawing)
    assert len(named) >= 6
    boxes = [
        (float(x) - (6 * len(word) if anchor == "end" else 0), float(y), 6 * len(word)) for x, y, anchor, word in named
    ]
    for n, (x, y, width) in enumerate(boxes):
        for other_x, other_y, other_width in boxes[:n]:
            assert abs(y - other_y) >= 12 or x + width <= other_x or other_x + other_width <= x
    same = language_plot([cell(name, name, -0.3) for name in ("integrity", "freedom", "harmony")])
    assert "integrity and 2 more" in same


def test_a_deep_model_s_layers_fit_the_page() -> None:
    deep = effects()["masks"][0] | {"of_layers": 80, "layers": {"0": 3, "79": 1}}
    drawing = layer_plot([deep])
    edges = [float(x) + float(w) for x, w in re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', drawing)]
    assert max(edges) <= 560.1
    assert "integrity, layer 79: 1" in drawing


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
    assert done.stdout.count("<svg") == 3
    picture = tmp_path / "page.png"
    shot = [*command[:5], "--hide-scrollbars", "--window-size=390,2000", f"--screenshot={picture}", path.as_uri()]
    subprocess.run(shot, capture_output=True, timeout=120, check=True)
    assert picture.stat().st_size > 20_000, "something was drawn"
