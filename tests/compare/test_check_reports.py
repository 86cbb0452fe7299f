from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

from compare.check_reports import as_json, github_annotations, headline, junit, markdown
from compare.regression import Check, Gate, check
from tests.compare.run_scores import first_pairs, run_scores, with_settings


def failed() -> Check:
    return check(run_scores(30), run_scores(30, first_pairs("integrity", 12)), Gate())


def test_markdown_has_every_comparison_the_flips_and_the_settings() -> None:
    text = markdown(failed())
    assert text.startswith("## ❌ Values: Regressed: overall, integrity\n")
    assert "| letters | integrity | 1.000 | 0.600 | -40.0 [" in text
    assert "- **integrity**: acc fell by 40.0 %" in text
    assert "48 items fell and 0 rose" in text
    assert "- `letters en integrity-0001a: 1 > 0`" in text
    assert "- and 28 more" in text
    assert "seed 0" in text
    assert "- `cvoice_zh_integrity` items `itemsintegri`" in text


def test_what_passes_is_said_no_stronger_than_it_is() -> None:
    outcome = check(run_scores(30), run_scores(30), Gate())
    assert (
        headline(outcome)
        == "Not shown to regress in 3 comparisons; in 3 of them a larger drop than allowed is not excluded"
    )
    assert "not shown to regress; could have seen a drop of" in junit(outcome)
    few = check(run_scores(3), run_scores(3), Gate())
    assert "no drop whatever could have been seen" in junit(few)
    assert headline(replace(few, gate=Gate(strict=True))).startswith("Undecided, which --strict fails: overall")


def test_names_from_elsewhere_stay_text() -> None:
    bad = run_scores(5, name="a|b`<script>\nmodel\x00")
    outcome = check(bad, bad, Gate())
    text = markdown(outcome)
    assert "a\\|b'&lt;script> model" in text
    assert "<script>" not in text
    ET.fromstring(junit(outcome))


def test_junit_counts_failures() -> None:
    suite = ET.fromstring(junit(failed())).find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("3", "2")
    cases = {case.get("name"): case for case in suite}
    failure = cases["integrity"].find("failure")
    assert failure is not None
    assert failure.get("type") == "regressed"
    assert "more than 3.0 %" in str(failure.get("message"))
    assert cases["freedom"].find("failure") is None
    strict = ET.fromstring(junit(check(run_scores(5), run_scores(5), Gate(strict=True)))).find("testsuite")
    assert strict is not None
    assert strict.get("failures") == "3"


def test_annotations_are_workflow_commands() -> None:
    lines = github_annotations(failed()).splitlines()
    assert [line.partition("::acc fell")[0] for line in lines] == [
        "::error title=C-voice%3A overall regressed",
        "::error title=C-voice%3A integrity regressed",
    ]
    assert "40.0 %25" in lines[1]
    other = check(run_scores(30), with_settings(run_scores(30), dtype="torch.bfloat16"), Gate())
    assert github_annotations(other).splitlines() == [
        "::warning title=C-voice::baseline and candidate differ in dtype (torch.float32 / torch.bfloat16)",
        f"::notice title=C-voice::{headline(other)}",
    ]


def test_json_has_all_of_it_and_is_the_same_twice() -> None:
    text = as_json(failed())
    content = json.loads(text)
    assert content["passed"] is False
    assert content["comparisons"][-1]["value"] == "integrity"
    assert content["comparisons"][-1]["clusters"] == 30
    assert text == as_json(failed())
