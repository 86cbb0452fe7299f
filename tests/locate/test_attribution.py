"""Attribution equals a numerical derivative of the margin, and finds what the choice hangs on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cvoice_foundation.errors import CVoiceError
from intervention.neurons import find_neurons
from locate.attribution import attribute
from locate.record import PassOptions, record
from tests.locate.corpora import ACTION, codes_of, corpus, loaded
from tests.tiny_models import DENSE

OPTIONS = PassOptions(batch_size=3)


@torch.no_grad()
def _log_p(model: Any, tokenizer: Any, text: Any) -> float:
    ids, codes = codes_of(text, tokenizer)
    log_p = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(log_p[at - 1, ids[at]]) for at, code in enumerate(codes) if code == ACTION and at)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "opt", "phi3", "gemma3", "bloom"])
def test_it_is_the_derivative_of_the_margin(tmp_path: Path, model_type: str) -> None:
    """d margin / d(1 + e), every activation of a neuron scaled by 1 + e, taken from both sides.

    The step is large because some normalisations compute in float32 even in a float64 model.
    """
    model, tokenizer = loaded(tmp_path, model_type, initializer_range=0.3)
    model = model.double()
    texts = [text for text in corpus(1, ("integrity",)) if text.language == "en"]
    statistics = attribute(
        model, tokenizer, texts, record(model, tokenizer, texts, OPTIONS, progress=False), OPTIONS, progress=False
    )
    assert statistics.attribution is not None
    layers = find_neurons(model)
    start, step = 0, 3e-3
    for layer in layers:
        for neuron in (0, 7, layer.width - 1):
            margins = []
            for factor in (1 + step, 1 - step):

                def scale(_: Any, args: Any, neuron: int = neuron, factor: float = factor) -> Any:
                    changed = args[0].clone()
                    changed[..., neuron] *= factor
                    return (changed, *args[1:])

                handle = layer.down.register_forward_pre_hook(scale)
                upheld, given_up = (
                    sum(_log_p(model, tokenizer, text) for text in texts if text.stance == stance) / 2
                    for stance in ("aligned", "violating")
                )
                handle.remove()
                margins.append(upheld - given_up)
            slope = (margins[0] - margins[1]) / (2 * step)
            assert float(statistics.attribution[0, start + neuron]) == pytest.approx(slope, rel=1e-2, abs=2e-3)
        start += layer.width


@pytest.mark.parametrize("model_type", DENSE)
def test_every_dense_architecture_has_one(tmp_path: Path, model_type: str) -> None:
    model, tokenizer = loaded(tmp_path, model_type)
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    texts = corpus(1, ("integrity", "freedom"))
    statistics = record(model, tokenizer, texts, OPTIONS, progress=False)
    once, again = (attribute(model, tokenizer, texts, statistics, OPTIONS, progress=False) for _ in range(2))
    assert once.attribution is not None
    assert again.attribution is not None
    assert torch.equal(once.attribution, again.attribution)
    assert once.attribution.abs().amax(1).min() > 0
    assert once.attribution_squares is not None
    torch.testing.assert_close(once.attribution_squares, once.attribution.square(), rtol=1e-9, atol=0)
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_mixtures_are_refused_in_one_line(tmp_path: Path) -> None:
    model, tokenizer = loaded(tmp_path, "qwen3_moe")
    statistics = record(model, tokenizer, corpus(1), OPTIONS, progress=False)
    with pytest.raises(CVoiceError, match="this one is a mixture of experts; use contrast"):
        attribute(model, tokenizer, corpus(1), statistics, OPTIONS, progress=False)
