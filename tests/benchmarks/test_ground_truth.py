"""Methods are judged by the right neurons, and chance is chance."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from sklearn.metrics import roc_auc_score

from benchmarks import ground_truth
from cvoice_tasks.items import load_items, of_value
from cvoice_tasks.values import LANGUAGES, VALUE_KEYS
from intervention.mask import NeuronMask
from organism.recipe import Recipe
from organism.train import train
from tests.items_for_tests import write_items

RECIPE = Recipe(
    hidden=16, layers=2, heads=2, neurons=64, reserved=4, curriculum=((0, 1),), cloze_passes=1, batch_size=8
)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> list[ground_truth.Judged]:
    out = tmp_path_factory.mktemp("organism")
    train(RECIPE, out, most=24)
    few = {language: out / f"evaluation.{language}.jsonl" for language in LANGUAGES}
    for language, path in few.items():
        items = load_items("evaluation", language)
        write_items(path, [asdict(item) for value in VALUE_KEYS for item in of_value(items, value)[:10]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ground_truth, "CORPORA", ("evaluation",))
        patch.setattr(ground_truth, "items_path", lambda _, language: few[language])
        patch.setattr(ground_truth, "METHODS", ("contrast", "random", "vape"))
        return ground_truth.judge(str(out / "model"), out / "truth", prompts=4)


def test_every_value_method_and_language_is_judged(judged: list[ground_truth.Judged]) -> None:
    assert len(judged) == (3 * 3 + 1) * len(VALUE_KEYS)
    for one in judged:
        assert one.precision is None or 0 <= one.precision <= 1
        assert 0 <= one.recall <= 1
        assert 0 <= one.roc_auc <= 1
        assert one.own is None or one.language == "both"


def test_random_neurons_are_near_chance(judged: list[ground_truth.Judged]) -> None:
    areas = [one.roc_auc for one in judged if one.method == "random"]
    # 8 of 104 neurons a value: the standard error of the mean of twelve is about 0.03.
    assert abs(sum(areas) / len(areas) - 0.5) < 0.15


def test_places_are_those_of_the_truth_masks(tmp_path: Path) -> None:
    class Site:
        def __init__(self, layer: int) -> None:
            self.layer, self.width = layer, 64

    class Statistics:
        sites = (Site(0), Site(1))

    for place, name in enumerate((*VALUE_KEYS, "control")):
        from organism.truth import truth_mask

        truth_mask(name, 2, 64, 4).save(tmp_path / f"{name}.jsonl")
        assert NeuronMask.load(tmp_path / f"{name}.jsonl").num_masked == 8, place
    truth = ground_truth.Truth(tmp_path, Statistics())  # type: ignore[arg-type]
    assert truth.places["democracy"].nonzero().flatten().tolist() == [4, 5, 6, 7, 68, 69, 70, 71]
    assert int(truth.known.sum()) == 2 * 13 * 4
    assert not truth.known[13 * 4 : 64].any()
    perfect = truth.places["democracy"].double()
    assert roc_auc_score(truth.places["democracy"][truth.known], perfect[truth.known]) == 1


def test_the_table_has_a_line_for_each(judged: list[ground_truth.Judged]) -> None:
    lines = ground_truth.table(judged).splitlines()
    assert len(lines) == 2 + 10
    assert lines[2].startswith("| evaluation | `contrast` | both | ")
    assert len(ground_truth.by_value(judged).splitlines()) == 2 + 4
    assert ground_truth.mean([None, 1.0, 3.0]) == 2
    assert ground_truth.mean([None]) is None
