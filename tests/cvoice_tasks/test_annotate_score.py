"""Filled sheets: agreement by hand, rows that cannot be read are told, files that are no sheets are refused."""

from __future__ import annotations

import contextlib
import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvoice_foundation.errors import CVoiceError
from cvoice_tasks.annotate import COLUMNS, KEY_COLUMNS
from cvoice_tasks.annotate_score import Answer, read_answer, score_sheets, table
from cvoice_tasks.values import VALUES

KEY = [("s1-1", "integrity", "1"), ("s1-2", "justice", "2"), ("s1-3", "integrity", "2"), ("s1-4", "freedom", "1")]


def write(path: Path, columns: tuple[str, ...], rows: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def key_file(folder: Path) -> Path:
    rows = [{"number": n, "id": f"{v}-0001a", "act": act, "value": v} for n, v, act in KEY]
    return write(folder / "key.en.csv", KEY_COLUMNS, rows)


def sheet(path: Path, answers: list[tuple[str, str]]) -> Path:
    return write(
        path,
        COLUMNS,
        [
            {"number": number, "answer_act": act, "answer_value": value}
            for (number, _, _), (act, value) in zip(KEY, answers, strict=True)
        ],
    )


def test_agreement_is_that_by_hand(tmp_path: Path) -> None:
    one = sheet(tmp_path / "one.csv", [("1", "integrity"), ("2", "equality, justice"), ("1", "诚信"), ("1.0", "自由")])
    two = sheet(tmp_path / "two.csv", [("1", "integrity"), ("2", "equality"), ("2", "integrity"), ("", "")])
    found = score_sheets(key_file(tmp_path), [one, two])
    first, second, between = found.agreements
    assert (first.stories, first.act, first.value, first.first_or_second) == (4, 0.75, 0.75, 1.0)
    # Acts 1 2 1 1 against 1 2 2 1: observed 3/4, by chance 3/4 * 2/4 + 1/4 * 2/4 = 1/2.
    assert first.act_kappa == pytest.approx((0.75 - 0.5) / 0.5)
    # Values i e i f against i j i f: observed 3/4, by chance (2*2 + 1*1) / 16 = 5/16.
    assert first.value_kappa == pytest.approx((0.75 - 5 / 16) / (11 / 16))
    assert (second.stories, second.act, second.act_kappa) == (3, 1.0, 1.0)
    assert (between.stories, between.act, between.first_or_second) == (3, pytest.approx(2 / 3), None)
    assert found.empty == {str(one): 0, str(two): 1}
    assert found.unread == ()
    assert "| 4 | 0.750 | 0.500 | 0.750 |" in table(found)


def test_rows_that_cannot_be_read_are_listed_with_their_row(tmp_path: Path) -> None:
    one = sheet(tmp_path / "one.csv", [("3", "integrity"), ("2", ""), ("2", "honour"), ("1", "freedom")])
    found = score_sheets(key_file(tmp_path), [one])
    assert found.agreements[0].stories == 1
    assert found.agreements[0].act_kappa is None
    assert [reason.partition(", ")[2] for reason in found.unread] == [
        "row 2 (s1-1): the act is '3', and should be 1 or 2",
        "row 3 (s1-2): the value is missing",
        "row 4 (s1-3): there is no value 'honour'; keys and Chinese names are read",
    ]


def test_what_is_no_sheet_is_refused_in_one_line(tmp_path: Path) -> None:
    key = key_file(tmp_path)
    with pytest.raises(CVoiceError, match="not a sheet; it has the columns number, story"):
        score_sheets(key, [key])
    with pytest.raises(CVoiceError, match="cannot read this sheet"):
        score_sheets(key, [tmp_path / "none.csv"])
    other = write(tmp_path / "other.csv", COLUMNS, [{"number": "s9-1"}])
    with pytest.raises(CVoiceError, match="the key has no number 's9-1'"):
        score_sheets(key, [other])
    (tmp_path / "gbk.csv").write_bytes("编号".encode("gbk"))
    with pytest.raises(CVoiceError, match="not CSV in UTF-8"):
        score_sheets(key, [tmp_path / "gbk.csv"])
    one = sheet(tmp_path / "one.csv", [("1", "integrity")] * 4)
    with pytest.raises(CVoiceError, match="is given twice"):
        score_sheets(key, [one, one])


@given(
    act=st.sampled_from((1, 2)),
    value=st.sampled_from(VALUES),
    second=st.sampled_from(VALUES),
    mark=st.sampled_from((",", "，", "、", ";", " / ")),
)
def test_every_way_of_writing_an_answer_is_read(act: int, value, second, mark: str) -> None:  # type: ignore[no-untyped-def]
    for name in (value.key, value.zh, value.en.upper(), value.key.replace("_", " ")):
        assert read_answer(f" {act} ", f"{name}{mark}{second.zh}") == Answer(act, (value.key, second.key))


@given(st.text(max_size=8), st.text(max_size=12))
def test_anything_else_is_an_answer_or_a_reason(act: str, value: str) -> None:
    with contextlib.suppress(ValueError):
        assert read_answer(act, value).act in (1, 2)
