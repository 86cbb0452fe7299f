"""Locating from end to end: same bytes whenever, however interrupted, by however many processes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from cvoice_foundation.errors import CVoiceError
from intervention.mask import NeuronMask
from locate.record import Checkpoint, PassOptions, record
from locate.run import locate_masks, read_texts, select_masks
from locate.select import SelectOptions
from locate.statistics_file import load_statistics
from locate.vape import VapeOptions
from tests.items_for_tests import items_folder, twin_lines, write_items
from tests.lm_eval_runs import save_tiny_model
from tests.locate.corpora import corpus, loaded

VALUES = ("integrity", "freedom", "harmony")
OPTIONS = SelectOptions(vape=VapeOptions(top_rate=0.2, filter_rate=0.5, bar_rate=0.5))


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Path]]:
    folder = tmp_path_factory.mktemp("setting")
    data = items_folder(folder / "data", pairs=3, values=VALUES)
    return save_tiny_model(folder / "model"), [data / f"activation.{language}.jsonl" for language in ("zh", "en")]


def located(setting: tuple[str, list[Path]], out: Path, **changes: Any) -> list[NeuronMask]:
    path, data = setting
    arguments: dict[str, Any] = {"options": OPTIONS, "progress": False, "device": "cpu"}
    return locate_masks(path, out, data=data, **(arguments | changes))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_the_same_command_gives_the_same_bytes_and_masks_that_fit(
    setting: tuple[str, list[Path]], tmp_path: Path
) -> None:
    masks = located(setting, tmp_path / "one")
    located(setting, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    names = [f"{value}.jsonl" for value in VALUES]
    assert sorted(contents(tmp_path / "one")) == sorted([*names, "locate.json", "statistics.safetensors"])
    assert sum(mask.num_masked for mask in masks) > 0
    for mask in masks:
        assert NeuronMask.load(tmp_path / "one" / f"{mask.value}.jsonl") == mask
        assert (mask.model.name, mask.model.architecture, mask.language) == (setting[0], "Qwen2ForCausalLM", "both")
    told = json.loads((tmp_path / "one" / "locate.json").read_text())
    assert told["method"] == OPTIONS.to_json()
    assert told["masks"]["freedom"]["sha256"] == masks[1].sha256
    assert sum(told["tokens"].values()) == told["corpus"]["tokens"]


def test_selecting_again_gives_what_locating_gave(setting: tuple[str, list[Path]], tmp_path: Path) -> None:
    masks = located(setting, tmp_path / "one", options=SelectOptions("contrast", VapeOptions(0.05)))
    source = str(tmp_path / "one" / "statistics.safetensors")
    assert select_masks([source], tmp_path / "again", SelectOptions("contrast", VapeOptions(0.05))) == masks
    assert select_masks([source], tmp_path / "other", OPTIONS) == located(setting, tmp_path / "two")
    with pytest.raises(CVoiceError, match="no attributions within pairs"):
        select_masks([source], tmp_path / "none", SelectOptions("attribution"))
    assert not (tmp_path / "none").exists()


def test_attribution_is_a_pass_of_its_own(setting: tuple[str, list[Path]], tmp_path: Path) -> None:
    masks = located(setting, tmp_path / "out", options=SelectOptions("attribution", VapeOptions(0.05)))
    assert all(mask.num_masked for mask in masks)
    assert load_statistics(tmp_path / "out" / "statistics.safetensors").attribution is not None


def test_an_interrupted_pass_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """Stopped after every group in turn, without the ceremony of a signal."""
    model, tokenizer = loaded(tmp_path / "model")
    texts, options = corpus(3), PassOptions(batch_size=4)
    whole = record(model, tokenizer, texts, options, progress=False)
    decoder, calls = model.model, 0

    class StopError(Exception):
        pass

    def after(limit: int) -> Any:
        def hook(*_: Any) -> None:
            nonlocal calls
            calls += 1
            if calls > limit:
                raise StopError

        return hook

    for limit in range(1, 9):
        path = tmp_path / f"{limit}.unfinished"
        calls = 0
        handle = decoder.register_forward_pre_hook(after(limit))
        with pytest.raises(StopError):
            record(model, tokenizer, texts, options, checkpoint=Checkpoint(path, every=0), progress=False)
        handle.remove()
        found = record(
            model, tokenizer, texts, options, checkpoint=Checkpoint(path, resume=True, every=1e9), progress=False
        )
        assert found.header == whole.header
        assert all(torch.equal(tensor, found.tensors()[name]) for name, tensor in whole.tensors().items())
        if path.exists():
            with pytest.raises(CVoiceError, match="left by a pass with another model, corpus, batch size"):
                record(model, tokenizer, texts, PassOptions(5), checkpoint=Checkpoint(path, True), progress=False)


def _command(setting: tuple[str, list[Path]], out: Path, *more: str) -> list[str]:
    path, data = setting
    rates = ["--top-rate", "0.2", "--filter-rate", "0.5", "--bar-rate", "0.5"]
    files = [word for file in data for word in ("--data", str(file))]
    return ["-m", "locate", "--model", path, "--out", str(out), "--device", "cpu", *rates, *files, *more]


def _environment(**more: str) -> dict[str, str]:
    kept = {
        k: v
        for k, v in os.environ.items()
        if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    }
    return (
        kept | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | more
    )


def test_killed_at_any_moment_and_resumed_gives_the_same_bytes(tmp_path: Path) -> None:
    """kill -9, again and again, at moments drawn at random, until one run comes through."""
    data = items_folder(tmp_path / "data", pairs=12, values=VALUES)
    setting = (save_tiny_model(tmp_path / "model"), [data / f"activation.{la}.jsonl" for la in ("zh", "en")])
    located(setting, tmp_path / "whole", reading=PassOptions(batch_size=2))
    command = [sys.executable, *_command(setting, tmp_path / "killed", "--batch-size", "2", "--resume")]
    command += ["--checkpoint-every", "0"]
    moments = random.Random(5)
    unfinished = tmp_path / "killed" / ".statistics.safetensors.unfinished"
    for _ in range(3):
        seen = unfinished.stat().st_mtime_ns if unfinished.exists() else 0
        process = subprocess.Popen(command, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        # Not before it has come further than the last one, or nothing would be tested.
        while process.poll() is None and time.monotonic() < deadline:
            if unfinished.exists() and unfinished.stat().st_mtime_ns != seen:
                break
            time.sleep(0.005)
        time.sleep(moments.random() * 0.15)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, env=_environment(), check=True, capture_output=True, timeout=120)
    left = contents(tmp_path / "killed")
    # kill -9 inside a writing leaves its temporary file, never half a result.
    assert {name: left[name] for name in contents(tmp_path / "whole")} == contents(tmp_path / "whole")
    assert all(name.startswith(".") for name in left.keys() - contents(tmp_path / "whole").keys())
    assert not unfinished.exists()


def test_torchrun_gives_the_counts_of_one_process(setting: tuple[str, list[Path]], tmp_path: Path) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launcher, *_command(setting, tmp_path / "two")]
    subprocess.run(command, env=_environment(), check=True, capture_output=True, timeout=170)
    located(setting, tmp_path / "one")
    one, two = (load_statistics(tmp_path / name / "statistics.safetensors") for name in ("one", "two"))
    assert one.header == two.header
    assert all(torch.equal(getattr(one, n), getattr(two, n)) for n in ("texts", "tokens", "fired", "pairs"))
    assert sorted(contents(tmp_path / "two")) == sorted(contents(tmp_path / "one"))


def test_shards_of_a_job_array_are_joined_by_select(setting: tuple[str, list[Path]], tmp_path: Path) -> None:
    whole = located(setting, tmp_path / "one", reading=PassOptions(2))
    for shard in range(3):
        assert located(setting, tmp_path / "parts", reading=PassOptions(2, shard=(shard, 3))) == []
    files = sorted(map(str, (tmp_path / "parts").iterdir()))
    assert len(files) == 3
    masks = select_masks(files, tmp_path / "joined", OPTIONS)
    assert [[(line.layer, line.neurons) for line in mask.layers] for mask in masks] == [
        [(line.layer, line.neurons) for line in mask.layers] for mask in whole
    ]
    with pytest.raises(CVoiceError, match="1 is missing"):
        select_masks([files[0], files[2]], tmp_path / "joined", OPTIONS)


def test_an_empty_mask_is_written_with_a_warning(
    setting: tuple[str, list[Path]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    masks = located(setting, tmp_path / "out", options=SelectOptions(vape=VapeOptions(top_rate=0.001)))
    assert {mask.num_masked for mask in masks} == {0}
    assert "no neurons were selected for integrity; try a higher --top-rate" in caplog.text
    assert (tmp_path / "out" / "integrity.jsonl").is_file()


def test_the_language_of_a_file(tmp_path: Path) -> None:
    plain = write_items(tmp_path / "mine.jsonl", twin_lines("integrity", 1, "en"))
    zh = write_items(tmp_path / "mine.zh.jsonl", twin_lines("integrity", 1, "zh"))
    assert {text.language for text in read_texts([plain, zh], "en")} == {"en"}
    assert {text.language for text in read_texts([zh], "both")} == {"zh"}
    for data, language, message in (
        ([plain], "both", "which language"),
        ([zh], "en", "the corpus is empty"),
        ([zh], "english", "did you mean en|known"),
    ):
        with pytest.raises(CVoiceError, match=message):
            read_texts(data, language)  # type: ignore[arg-type]
