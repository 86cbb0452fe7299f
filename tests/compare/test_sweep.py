"""One loaded model and masks in place give what one lm-eval run a mask gives, and go on after an interruption."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from compare import sweep as sweep_module
from compare.effects_run import measure_effects, read_masks
from compare.passages import read_passages
from compare.runs import Run, Settings
from compare.sweep import sweep
from cvoice_foundation.errors import CVoiceError
from intervention.mask import NeuronMask
from intervention.neuron_mask_lm import NeuronMaskedHFLM
from tests.items_for_tests import items_folder, write_items
from tests.lm_eval_runs import evaluate, save_tiny_model
from tests.tiny_masks import tiny_mask

TASKS = ("cvoice_en_integrity", "cvoice_en_freedom", "cvoice_recog_en_integrity")


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Path, list[NeuronMask]]:
    folder = tmp_path_factory.mktemp("sweep")
    model = save_tiny_model(folder / "model")
    data = items_folder(folder / "data", pairs=3, values=("integrity", "freedom"))
    masks = [tiny_mask({1: tuple(range(20))}, num_neurons=56, value="integrity")]
    masks.append(tiny_mask({0: (1, 2), 2: tuple(range(18))}, num_neurons=56, value="freedom"))
    (folder / "masks").mkdir()
    for mask in masks:
        mask.save(folder / "masks" / f"{mask.value}.jsonl")
    return Settings(model, TASKS, batch_size=4, data_dir=str(data)), folder / "masks", read_masks(folder / "masks")


def one_by_one(settings: Settings, path: Path | None) -> dict[str, dict[str, float]]:
    lm = NeuronMaskedHFLM(None if path is None else str(path), settings.model, batch_size=4, device="cpu")
    found = evaluate(lm, list(TASKS), metadata={"data_dir": settings.data_dir})
    return {task: {m: found["results"][task][f"{m},none"] for m in ("acc", "margin", "twin_acc")} for task in TASKS}


def means(run: Run) -> dict[str, dict[str, float]]:
    result: dict[str, dict[str, float]] = {task: {} for task in TASKS}
    for task in TASKS:
        family, value = ("recog" if "recog" in task else "letters"), task.rpartition("_")[2]
        for metric, numbers in run.numbers.items():
            of_task = [n for key, n in numbers.items() if (key[0], key[2]) == (family, value)]
            result[task][metric] = sum(of_task) / len(of_task)
    return result


def test_a_sweep_is_one_run_a_mask(setting: tuple[Settings, Path, list[NeuronMask]], tmp_path: Path) -> None:
    settings, folder, masks = setting
    baseline, *runs = sweep(settings, masks, tmp_path, device="cpu", progress=False)
    for run, path in [(baseline, None), *((run, folder / f"{run.name}.jsonl") for run in runs)]:
        expected = one_by_one(settings, path)
        for task, of_task in means(run).items():
            assert of_task == pytest.approx(expected[task], rel=1e-12), (run.name, task)
    assert baseline.numbers["margin"] != runs[0].numbers["margin"]
    assert {answer for run in (baseline, *runs) for answer in run.chosen.values()} <= {("A", ""), ("B", ""), ("=", "")}
    assert len(baseline.chosen) == 2 * 3 * 2 * 2, "lettered choices of both values, in both orders"


def test_a_finished_run_is_not_repeated(
    setting: tuple[Settings, Path, list[NeuronMask]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _, masks = setting
    whole = sweep(settings, masks, tmp_path, device="cpu", progress=False)
    (tmp_path / "runs" / "integrity.json").unlink()
    calls: list[Any] = []
    evaluate_once = sweep_module._Runner.run
    monkeypatch.setattr(sweep_module._Runner, "run", lambda self, mask: calls.append(mask) or evaluate_once(self, mask))
    assert sweep(settings, masks, tmp_path, device="cpu", progress=False) == whole
    assert [mask.value for mask in calls] == ["integrity"]


def test_runs_of_other_settings_or_masks_are_not_mixed(
    setting: tuple[Settings, Path, list[NeuronMask]], tmp_path: Path
) -> None:
    settings, _, masks = setting
    sweep(settings, masks[:1], tmp_path, device="cpu", progress=False)
    with pytest.raises(CVoiceError, match="a run with other settings"):
        sweep(replace(settings, limit=1), masks[:1], tmp_path, device="cpu", progress=False)
    with pytest.raises(CVoiceError, match="a run of another mask of that name"):
        sweep(settings, [replace(masks[1], value=masks[0].value)], tmp_path, device="cpu", progress=False)
    (tmp_path / "runs" / "baseline.json").write_text("{", "utf-8")
    with pytest.raises(CVoiceError, match="cannot be read as a run"):
        sweep(settings, masks[:1], tmp_path, device="cpu", progress=False)


def test_names_and_tasks_are_checked(setting: tuple[Settings, Path, list[NeuronMask]], tmp_path: Path) -> None:
    settings, _, masks = setting
    with pytest.raises(CVoiceError, match="two masks are named"):
        sweep(settings, [masks[0], masks[0]], tmp_path, progress=False)
    with pytest.raises(CVoiceError, match="'cvoice_xx', which lm-eval does not know"):
        sweep(replace(settings, tasks=("cvoice_xx",)), masks, tmp_path, device="cpu", progress=False)
    with pytest.raises(CVoiceError, match="no mask files"):
        read_masks(tmp_path)


def test_effects_are_written_and_the_same_twice(
    setting: tuple[Settings, Path, list[NeuronMask]], tmp_path: Path
) -> None:
    settings, folder, masks = setting
    for name in ("one", "two"):
        found = measure_effects(settings, folder, tmp_path / name, controls=2, device="cpu", progress=False)
    assert (tmp_path / "one" / "effects.json").read_bytes() == (tmp_path / "two" / "effects.json").read_bytes()
    written = json.loads((tmp_path / "one" / "effects.json").read_text("utf-8"))
    assert written["format"] == "cvoice-effects"
    assert {(cell["mask"], cell["family"], cell["value"]) for cell in written["cells"]} == {
        (mask.value, family, value)
        for mask in masks
        for family, value in (("letters", "integrity"), ("letters", "freedom"), ("recog", "integrity"))
    }
    assert [mask["neurons"] for mask in written["masks"]] == [20, 20]
    assert written["matched_by"] == "layer"
    assert all(len(cell["controls"]) == 2 and cell["of"] == 3 and not cell["claimed"] for cell in written["cells"])
    assert found["remarks"]
    assert all(flip["before"] != flip["after"] and flip["story"] for flip in written["flipped"])
    assert len(written["flipped"]) == sum(min(12, flips["changed"]) for flips in written["flips"].values())


def write_passages(folder: Path, language: str, texts: tuple[str, ...]) -> None:
    lines = [{"id": f"passage-{number:03d}", "text": text} for number, text in enumerate(texts, 1)]
    write_items(folder / f"neutral.{language}.jsonl", lines)


def test_items_that_changed_in_between_are_not_compared(
    setting: tuple[Settings, Path, list[NeuronMask]], tmp_path: Path
) -> None:
    settings, _, masks = setting
    data = items_folder(tmp_path / "data", pairs=1, values=("integrity", "freedom"))
    settings = replace(settings, data_dir=str(data))
    sweep(settings, masks[:1], tmp_path / "out", device="cpu", progress=False)
    path = data / "evaluation.en.jsonl"
    path.write_text(path.read_text("utf-8").replace("two tickets", "three tickets"), "utf-8")
    with pytest.raises(CVoiceError, match=r"integrity\.json: cvoice_en_freedom asked other things"):
        sweep(settings, masks, tmp_path / "out", device="cpu", progress=False)
    assert not (tmp_path / "out" / "runs" / "integrity.json").exists()


def test_perplexity_of_passages_is_that_of_the_model(
    setting: tuple[Settings, Path, list[NeuronMask]], tmp_path: Path
) -> None:
    settings, _, masks = setting
    data = items_folder(tmp_path / "data", pairs=1, values=("integrity", "freedom"))
    texts = ("The ferry leaves at nine.", "Rain fell on the tin roof all night, and by dawn the yard was a pond.")
    write_passages(data, "en", texts)
    write_passages(data, "zh", ("早上九点，渡船离岸。",))
    settings = replace(settings, data_dir=str(data))
    baseline, masked = sweep(settings, masks[:1], tmp_path / "out", device="cpu", progress=False)
    assert sweep(settings, masks[:1], tmp_path / "out", device="cpu", progress=False) == [baseline, masked]
    keys = [("neutral", "en", "", f"passage-{number:03d}", "") for number in (1, 2)]
    assert list(baseline.passages) == list(masked.passages) == keys, "the tasks are English, so the passages are"
    assert "neutral passages" in baseline.asked
    lm = NeuronMaskedHFLM(None, settings.model, batch_size=4, device="cpu")
    for key, text in zip(keys, texts, strict=True):
        tokens = [lm.prefix_token_id, *lm.tok_encode(text)]
        with torch.no_grad():
            loss = lm.model(torch.tensor([tokens]), labels=torch.tensor([tokens])).loss
        assert baseline.passages[key] == pytest.approx(float(loss.exp()), rel=1e-4)
        assert masked.passages[key] != baseline.passages[key]


@pytest.mark.parametrize("line", ['{"id": "a"}', '{"id": "a", "text": " "}', '{"id": 3, "text": "x"}', "[]"])
def test_what_is_no_passage_is_told_with_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "neutral.zh.jsonl").write_text(f'{{"id": "b", "text": "雨下了一夜。"}}\n{line}\n', "utf-8")
    with pytest.raises(CVoiceError, match="line 2"):
        read_passages({"zh"}, tmp_path)


def test_passages_are_cut_to_the_limit_and_each_has_its_id(tmp_path: Path) -> None:
    write_passages(tmp_path, "zh", ("雨下了一夜。", "渡船九点离岸。"))
    assert list(read_passages({"zh"}, tmp_path, 1).values()) == ["雨下了一夜。"]
    (tmp_path / "neutral.zh.jsonl").write_text('{"id": "a", "text": "x"}\n' * 2, "utf-8")
    with pytest.raises(CVoiceError, match="'a' stands twice"):
        read_passages({"zh"}, tmp_path)


def test_one_process_runs_a_sweep(
    setting: tuple[Settings, Path, list[NeuronMask]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _, masks = setting
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(CVoiceError, match="runs in one process"):
        sweep(settings, masks, tmp_path, progress=False)
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(CVoiceError, match="a mask is named 'baseline'"):
        sweep(settings, [replace(masks[0], value="baseline")], tmp_path, progress=False)
