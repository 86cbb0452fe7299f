"""The audit: every class of fault is found where it was planted, and a planted cue is found by the classifier."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest

from cvoice_foundation.errors import CVoiceError
from cvoice_tasks.audit import Audit, Figure, audit, table
from cvoice_tasks.audit_baselines import first_option, last_sentence, last_sentence_overlap, longer_option, overlap
from cvoice_tasks.audit_schema import Fault
from cvoice_tasks.items import Item
from tests.items_for_tests import write_items

Lines = list[dict[str, str]]


def lines_of(
    start: int, pairs: int, *, cue: bool = False, value: str = "integrity", seed: int = 0, twins: bool = True
) -> Lines:
    """Twins of random letters; with a cue, the words of the story's weather tell which act is aligned."""
    source = random.Random(seed + start)

    def word() -> str:
        return "".join(source.choices("abcdefghijklmnopqrstuvwxyz", k=7))

    lines = []
    for number in range(start, start + pairs):
        plot = [word() for _ in range(8)]
        acts = [f"Goes north {word()}.", f"Goes south {word()}."]
        north_first = source.random() < 0.5
        for twin, north in (("a", north_first), ("b", not north_first)):
            weather = ("sunny" if north else "rainy") if cue else word()
            aligned, violating = acts if north else acts[::-1]
            story = " ".join([*plot[:4], weather, *plot[4:], word()]) + "."
            lines.append({"id": f"{value}-{number:04d}{twin if twins else ''}", "value": value, "story": story})
            lines[-1] |= {"aligned": aligned, "violating": violating, "topic": f"topic {number}"}
            lines[-1] |= {"question": f"What does {plot[0].title()} do?"}
            if not twins:
                break
    return lines


def figures(result: Audit, files: str = "all") -> dict[str, float]:
    return {one.name: one.figure for one in result.figures if one.files == files}


def write_all(folder: Path, pairs: int = 10) -> Path:
    for language in ("zh", "en"):
        for split, start in (("evaluation", 1), ("activation", 1001)):
            write_items(folder / f"{split}.{language}.jsonl", lines_of(start, pairs))
    return folder


def test_sound_items_have_no_fault(tmp_path: Path) -> None:
    result = audit(write_all(tmp_path))
    assert result.faults == ()
    assert [figures(result)[kind] for kind in ("schema", "ids", "pairing", "acts", "duplicates")] == [0] * 5
    for files in ("evaluation zh", "evaluation en", "activation zh", "activation en"):
        assert figures(result, files)["option_only"] == 0.5
        assert figures(result, files)["longer_option"] == 0.5
        assert figures(result, files)["topics_twice_in_a_value"] == 0
    assert figures(result, "evaluation en")["names"] == 10
    assert "story_option_products" in figures(result, "evaluation en")


def _cut(lines: Lines) -> None:
    del lines[0]["story"]


def _repeat(lines: Lines) -> None:
    lines[2]["id"] = lines[0]["id"]


def _orphan(lines: Lines) -> None:
    del lines[1]


def _same_acts(lines: Lines) -> None:
    lines[1]["aligned"], lines[1]["violating"] = lines[1]["violating"], lines[1]["aligned"]


def _retell(lines: Lines) -> None:
    lines[2]["story"] = lines[0]["story"] + " And so on."


def _other_value(lines: Lines) -> None:
    lines[0]["value"] = "justice"


@pytest.mark.parametrize(
    ("plant", "kind", "where"),
    [
        (_cut, "schema", "evaluation.en.jsonl, line 1"),
        (_repeat, "ids", "evaluation.en.jsonl, line 3"),
        (_orphan, "pairing", "evaluation.en.jsonl, integrity-0001"),
        (_other_value, "pairing", "evaluation.en.jsonl, integrity-0001"),
        (_same_acts, "acts", "evaluation.en.jsonl, integrity-0001"),
        (_retell, "duplicates", "en, integrity-0001a and integrity-0002a"),
    ],
)
def test_a_planted_fault_is_found(tmp_path: Path, plant: Callable[[Lines], None], kind: str, where: str) -> None:
    lines = lines_of(1, 6)
    plant(lines)
    write_items(tmp_path / "evaluation.en.jsonl", lines)
    result = audit(tmp_path)
    assert where in [fault.where for fault in result.faults if fault.kind == kind]
    assert figures(result)[kind] > 0
    assert not result.holds
    assert f"{kind}: {where}: " in table(result)


def test_a_line_that_is_no_json_and_an_id_of_one_language_are_found(tmp_path: Path) -> None:
    write_all(tmp_path)
    with (tmp_path / "evaluation.zh.jsonl").open("a", encoding="utf-8") as file:
        file.write("{broken\n")
    write_items(tmp_path / "activation.zh.jsonl", lines_of(1001, 9))
    faults = {(fault.kind, fault.where) for fault in audit(tmp_path).faults}
    assert faults == {
        ("schema", "evaluation.zh.jsonl, line 21"),
        ("pairing", "activation, integrity-1010a"),
        ("pairing", "activation, integrity-1010b"),
    }


@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_planted_cue_is_found_by_the_products_alone(tmp_path: Path, language: str) -> None:
    write_items(tmp_path / f"activation.{language}.jsonl", lines_of(1001, 100, cue=True))
    write_items(tmp_path / f"evaluation.{language}.jsonl", lines_of(1, 100, cue=True))
    result = audit(tmp_path)
    found = figures(result, f"evaluation {language}")
    assert found["story_option_products"] > 0.9
    assert found["option_only"] == 0.5
    assert not result.holds


def test_items_that_are_no_twins_of_one_language_are_audited(tmp_path: Path) -> None:
    lines = lines_of(1, 20, twins=False)
    for line in lines:
        line["aligned"] = "Goes on honestly."
    write_items(tmp_path / "evaluation.en.jsonl", lines)
    result = audit(tmp_path)
    assert not {"pairing", "acts"} & figures(result).keys()
    assert figures(result, "evaluation en")["option_only"] == 1.0
    assert "option_only_untwinned" not in figures(result, "evaluation en")


def test_baselines_by_hand() -> None:
    one = Item(
        "x-1", "justice", "The dog waits. The cat sleeps. Feed the dog now.", "Feeds a dog.", "Sees the old cat."
    )
    assert last_sentence(one.story).strip() == "Feed the dog now."
    assert last_sentence("天晴了。他出门。") == "他出门。"
    assert longer_option([one], "en") == 0.0
    assert last_sentence_overlap([one], "en") == 1.0  # dog of feeds-a-dog (1/3); the of sees-the-old-cat (1/4)
    assert overlap([one], "en") == 0.0  # 1/3 against 2/4
    assert first_option([one], "en") == 0.0  # "the" is the violating act's own word


def test_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cvoice.cli", "audit", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    empty = run(str(tmp_path))
    assert (empty.returncode, empty.stderr.count("\n")) == (2, 1)
    assert "no items in it" in empty.stderr
    assert run(str(tmp_path), "--format", "xml").returncode == 2
    write_items(tmp_path / "evaluation.en.jsonl", lines_of(1, 3)[1:])
    broken = run(str(tmp_path), "--format", "json")
    assert broken.returncode == 1
    assert json.loads(broken.stdout)["faults"][0]["kind"] == "pairing"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CVoiceError, match="pip install 'cvoice\\[audit\\]'"):
        audit(tmp_path)


def test_the_table_has_a_row_a_figure_and_marks_what_breaks_its_limit() -> None:
    result = Audit(
        (
            Figure("ids", "all", 0, (0, 0), True),
            Figure("first_option", "evaluation zh", 0.36, (0.45, 0.55), False),
            Figure("first_option", "evaluation en", 0.5, (0.45, 0.55), True),
            Figure("stories", "evaluation en", 120, None, True),
        ),
        (Fault("ids", "here", "odd"),),
    )
    assert table(result).splitlines() == [
        "ids: here: odd",
        "| figure | limit | all | evaluation zh | evaluation en |",
        "|---|---|---|---|---|",
        "| ids | 0 to 0 | 0 |  |  |",
        "| first_option | 0.45 to 0.55 |  | 0.36 NO | 0.5 |",
        "| stories |  |  |  | 120 |",
        "",
        "1 figure breaks its limit.",
    ]
    assert table(Audit(result.figures[:1], ())).endswith("Every limit holds.")


def test_the_bundled_items_hold_every_limit_and_their_card_shows_the_table() -> None:
    result = audit()
    assert result.holds
    card = (Path(str(resources.files("cvoice_tasks"))) / "data" / "README.md").read_text("utf-8")
    assert table(result) in card
