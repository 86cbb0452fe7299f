"""Counting in one pass equals counting by hand; nothing that is a pad counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cvoice_foundation.errors import CVoiceError
from cvoice_tasks.items import Item
from intervention.mask import NeuronMask
from intervention.neurons import find_neurons
from locate.corpus import Text, batches, corpus_sha256, texts_of
from locate.record import record
from locate.run import locate_masks
from locate.select import VapeOptions
from locate.statistics import NeuronStatistics
from tests.items_for_tests import items_folder, twin_lines
from tests.lm_eval_runs import save_tiny_model
from tests.tiny_models import DENSE, tiny_model

TEXTS = [
    Text("integrity", "en", "She opens the shop early."),
    Text("freedom", "zh", "他把信寄了出去，没有拆开。"),
    Text("integrity", "en", "A promise is a promise, he said, and went back up the hill in the rain."),
    Text("freedom", "en", "B"),
    Text("integrity", "zh", "答应了就去做。"),
]


@pytest.mark.parametrize("model_type", DENSE)
@torch.no_grad()
def test_counts_equal_counts_by_hand(tmp_path: Path, model_type: str) -> None:
    """Token by token, one text at a time, no pads: fired is the sign of the activation function's output."""
    path = save_tiny_model(tmp_path, model_type)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    statistics = record(model, tokenizer, TEXTS, batch_size=3, progress=False)

    layers = find_neurons(model)
    classes = [("integrity", "en"), ("freedom", "zh"), ("freedom", "en"), ("integrity", "zh")]
    assert list(statistics.classes) == classes
    fired = torch.zeros(4, len(layers), layers[0].width, dtype=torch.int64)
    total = torch.zeros(4, len(layers), layers[0].width, dtype=torch.float64)
    tokens = torch.zeros(4, dtype=torch.int64)
    for text in TEXTS:
        ids = torch.tensor([tokenizer(text.text)["input_ids"]])
        inputs: dict[int, torch.Tensor] = {}
        gates: dict[int, torch.Tensor] = {}
        handles = [
            layer.down.register_forward_pre_hook(lambda _, args, at=layer.layer, to=inputs: to.update({at: args[0]}))
            for layer in layers
        ] + [
            layer.gate.register_forward_hook(lambda _, __, out, at=layer.layer, to=gates: to.update({at: out}))
            for layer in layers
            if layer.gate is not None
        ]
        model(ids)
        for handle in handles:
            handle.remove()
        row = classes.index((text.value, text.language))
        tokens[row] += ids.numel()
        for layer in layers:
            activation = inputs[layer.layer].reshape(-1, layer.width)
            gate = gates[layer.layer].reshape(ids.numel(), -1)[:, : layer.width] if gates else activation
            total[row, layer.layer] += activation.double().sum(0)
            fired[row, layer.layer] += (torch.nn.functional.silu(gate) > 0).sum(0)
    assert torch.equal(statistics.tokens, tokens)
    assert torch.equal(statistics.questions, torch.tensor([2, 1, 1, 1]))
    # Padding changes the shape of matrix products and so their rounding: a gate within rounding of zero may differ.
    assert ((statistics.fired - fired) != 0).float().mean() < 0.002
    assert statistics.total is not None
    torch.testing.assert_close(statistics.total, total, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", ["qwen3_moe", "deepseek_v3", "qwen2_moe"])
def test_mixtures_of_experts_are_refused_in_one_line(model_type: str) -> None:
    model = tiny_model(model_type)
    with pytest.raises(CVoiceError, match=r"mixture of experts .* counts dense models only"):
        record(model, lambda text, **_: {"input_ids": [5], "special_tokens_mask": [0]}, TEXTS, progress=False)


def test_batches_are_sorted_by_length_and_count_no_pads(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(save_tiny_model(tmp_path))
    made = list(batches(TEXTS, tokenizer, 2, 1000))
    lengths = [len(tokenizer(text.text)["input_ids"]) for text in TEXTS]
    assert [place for batch in made for place in batch.texts] == sorted(range(5), key=lambda place: -lengths[place])
    for batch in made:
        for row, place in enumerate(batch.texts):
            assert batch.input_ids[row, : lengths[place]].tolist() == tokenizer(TEXTS[place].text)["input_ids"]
            assert int(batch.counted[row].sum()) == int(batch.attention_mask[row].sum()) == lengths[place]
    with pytest.raises(CVoiceError, match="longer than the model's 3"):
        list(batches(TEXTS, tokenizer, 2, 3))


def test_special_tokens_are_run_and_not_counted(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = AutoTokenizer.from_pretrained(save_tiny_model(tmp_path))
    plain = len(tokenizer("B")["input_ids"])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", 0)]
    )
    (batch,) = batches([Text("integrity", "en", "B")], tokenizer, 2, 1000)
    assert batch.input_ids.shape == (1, plain + 1)
    assert batch.counted[0].tolist() == [False] + [True] * plain


def test_the_text_is_story_aligned_act_and_rationale() -> None:
    line = twin_lines("integrity", 1, "en")[0] | {"rationale": "Because she promised."}
    (text,) = texts_of([Item(**line)], "en")
    assert text == Text("integrity", "en", f"{line['story']}\n{line['aligned']}\nBecause she promised.")
    assert corpus_sha256([text]) != corpus_sha256([Text("freedom", "en", text.text)])


def test_merged_parts_equal_one_pass_exactly_in_counts(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    whole = record(model, tokenizer, TEXTS, batch_size=1, progress=False)
    parts = [record(model, tokenizer, part, batch_size=1, progress=False) for part in (TEXTS[:2], TEXTS[2:])]
    merged = parts[1].merge(parts[0])
    order = [merged.classes.index(c) for c in whole.classes]
    assert torch.equal(merged.fired[order], whole.fired)
    assert torch.equal(merged.tokens[order], whole.tokens)
    assert torch.equal(merged.questions[order], whole.questions)
    assert merged.header["corpus"]["tokens"] == whole.header["corpus"]["tokens"]
    assert merged.total is not None
    torch.testing.assert_close(merged.total[order], whole.total, rtol=1e-12, atol=1e-9)


def test_statistics_survive_the_file(tmp_path: Path) -> None:
    statistics = NeuronStatistics(
        (("integrity", "zh"), ("freedom", "")),
        torch.tensor([3, 4]),
        torch.tensor([1, 1]),
        torch.arange(12).view(2, 2, 3),
        torch.rand(2, 2, 3, dtype=torch.float64),
        {"model": {"name": "m"}, "corpus": {"sha256": "x", "tokens": 7}},
    )
    statistics.save(tmp_path / "s.safetensors")
    loaded = NeuronStatistics.load(tmp_path / "s.safetensors")
    assert (loaded.classes, loaded.header) == (statistics.classes, statistics.header)
    for name in ("tokens", "questions", "fired", "total"):
        assert torch.equal(getattr(loaded, name), getattr(statistics, name))
    statistics.save(tmp_path / "again.safetensors")
    assert (tmp_path / "s.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_statistics_of_different_models_are_not_merged() -> None:
    def of(name: str) -> NeuronStatistics:
        return NeuronStatistics(
            (("a", ""),),
            torch.tensor([1]),
            torch.tensor([1]),
            torch.ones(1, 2, 3).long(),
            None,
            {"model": {"name": name}},
        )

    with pytest.raises(CVoiceError, match="different models"):
        of("m").merge(of("n"))


def test_locate_writes_the_same_bytes_twice_and_masks_that_run(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path / "model")
    data = items_folder(tmp_path / "data", pairs=2, values=("integrity", "freedom", "harmony"))
    options = VapeOptions(top_rate=0.2, filter_rate=0.5, bar_rate=0.5)
    files = [data / f"activation.{language}.jsonl" for language in ("zh", "en")]
    outs = [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        masks = locate_masks(path, out, data=files, options=options, progress=False, device="cpu")
    names = sorted(file.name for file in outs[0].iterdir())
    assert names == ["freedom.jsonl", "harmony.jsonl", "integrity.jsonl", "locate.json", "statistics.safetensors"]
    assert all((outs[0] / name).read_bytes() == (outs[1] / name).read_bytes() for name in names)
    assert sum(mask.num_masked for mask in masks) > 0
    for mask in masks:
        assert NeuronMask.load(outs[0] / f"{mask.value}.jsonl") == mask
        assert (mask.model.name, mask.model.architecture, mask.language) == (path, "Qwen2ForCausalLM", "both")


def test_an_empty_mask_is_written_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save_tiny_model(tmp_path / "model")
    data = items_folder(tmp_path / "data", pairs=1, values=("integrity", "freedom"))
    masks = locate_masks(
        path,
        tmp_path / "out",
        data=[data / "activation.en.jsonl"],
        options=VapeOptions(top_rate=0.001),
        progress=False,
        device="cpu",
    )
    assert {mask.num_masked for mask in masks} == {0}
    assert "no neurons were selected for integrity; try a higher --top-rate" in caplog.text
    assert (tmp_path / "out" / "integrity.jsonl").is_file()
