"""Masks among other masks and other people's hooks: any order of removal, errors, and what must survive."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from cvoice_foundation.errors import CVoiceError
from intervention.ablation import Ablation, ablate, apply_mask
from intervention.experts import _TAPPED_MODELS, _TAPS
from intervention.neurons import SHARED, find_neurons
from tests.tiny_masks import tiny_mask
from tests.tiny_models import some_tokens, tiny_model

WAYS: list[tuple[str, float | None]] = [("mean", None), ("zero", None), ("scale", 2.0), ("scale", 0.3)]


def _state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _assert_as_before(model: PreTrainedModel, before: dict[str, torch.Tensor], plain: torch.Tensor) -> None:
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value), name
    assert torch.equal(model(some_tokens()).logits, plain)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert model not in _TAPPED_MODELS
    assert not any(_TAPS.get(module) for module in model.modules())


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "qwen2_moe"])
@pytest.mark.parametrize(("first", "second"), list(itertools.product(WAYS, WAYS)))
@torch.no_grad()
def test_two_overlapping_masks_come_off_in_any_order(model_type: str, first: Any, second: Any) -> None:
    model, tokens = tiny_model(model_type), some_tokens()
    plain, before = model(tokens).logits, _state(model)
    mixture = model_type == "qwen2_moe"
    places: list[Any] = [(1, 0), (1, 3), (1, SHARED), (0, None)] if mixture else [(0, None), (2, None)]
    one = tiny_mask(dict.fromkeys(places, (1, 2, 3)), means=0.5)
    two = tiny_mask(dict.fromkeys(places[1:], (3, 4)), means=0.5)
    for order in ((0, 1), (1, 0)):
        applied: list[Ablation] = [apply_mask(model, one, *first)]
        if second[0] == "mean" and applied[0].folded:
            with pytest.raises(CVoiceError, match="another mask in force already zeroes or scales it"):
                apply_mask(model, two, *second)
            applied[0].remove()
            _assert_as_before(model, before, plain)
            continue
        only_first = model(tokens).logits
        applied.append(apply_mask(model, two, *second))
        assert not torch.equal(model(tokens).logits, only_first)
        applied[order[0]].remove()
        applied[order[0]].remove()  # twice is once
        left = (two, second) if order[0] == 0 else (one, first)
        fresh = tiny_model(model_type)
        with ablate(fresh, left[0], *left[1]):
            assert torch.equal(model(tokens).logits, fresh(tokens).logits)
        applied[order[1]].remove()
        _assert_as_before(model, before, plain)


@torch.no_grad()
def test_a_later_mask_acts_on_what_the_earlier_left() -> None:
    model = tiny_model("llama")
    down = find_neurons(model)[0].down
    mask = tiny_mask({0: (1, 2)}, means=0.5)  # means 0.6 and 0.7
    x = torch.randn(3, 56)
    expected = x.clone()
    expected[:, 1], expected[:, 2] = 0.6 * 2, 0.7 * 2
    with ablate(model, mask, "mean"), ablate(model, mask, "scale", 2.0):
        torch.testing.assert_close(
            down(x), down.forward(expected / torch.tensor([2 if i in (1, 2) else 1 for i in range(56)]))
        )
        with ablate(model, mask, "zero"):
            expected[:, 1:3] = 0
            assert torch.equal(down(x), down(expected))
    plain = x.clone()
    assert torch.equal(down(x), down(plain))


@pytest.mark.parametrize("model_type", ["llama", "qwen2_moe"])
@pytest.mark.parametrize("mode", ["zero", "mean"])
@torch.no_grad()
def test_an_exception_in_a_run_undoes_everything(model_type: str, mode: str) -> None:
    model, tokens = tiny_model(model_type), some_tokens()
    plain, before = model(tokens).logits, _state(model)
    mask = tiny_mask({(1, 0): (1,)} if model_type == "qwen2_moe" else {1: (1,)}, means=1.0)
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), ablate(model, mask, mode):  # noqa: PT012 - the block is the run
            model(tokens)
            raise error
        _assert_as_before(model, before, plain)


@pytest.mark.parametrize("mode", ["zero", "mean"])
@pytest.mark.parametrize("model_type", ["llama", "qwen2_moe"])
@torch.no_grad()
def test_an_exception_while_a_mask_is_applied_undoes_everything(
    model_type: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers that were masked before the failing one are as before."""
    import intervention.ablation

    model, tokens = tiny_model(model_type), some_tokens()
    plain, before = model(tokens).logits, _state(model)
    apply_to_layer = intervention.ablation._apply_to_layer

    def failing(ablation: Ablation, site: Any, masked: Any) -> bool:
        changed = apply_to_layer(ablation, site, masked)
        if masked.layer == 2:
            raise KeyboardInterrupt
        return changed

    monkeypatch.setattr(intervention.ablation, "_apply_to_layer", failing)
    mixture = model_type == "qwen2_moe"
    mask = tiny_mask({(1, 1): (1,), (2, 0): (1,)} if mixture else {0: (1,), 2: (2,)}, means=1.0)
    with pytest.raises(KeyboardInterrupt):
        apply_mask(model, mask, mode)
    _assert_as_before(model, before, plain)


@pytest.mark.parametrize("mode", ["zero", "mean"])
@torch.no_grad()
def test_other_peoples_hooks_survive(mode: str) -> None:
    """Hooks that were there, hooks that came while the mask was on, and what they do to the output."""
    model, tokens = tiny_model("llama"), some_tokens()
    down = find_neurons(model)[0].down
    calls: list[str] = []

    def note(name: str) -> Any:
        return lambda *_: calls.append(name)

    def shift(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        return output + 1

    down.register_forward_pre_hook(note("early"))
    down.register_forward_hook(shift)
    with_theirs = model(tokens).logits
    mask = tiny_mask({0: (1, 2)}, means=1.0)
    ablation = apply_mask(model, mask, mode)
    down.register_forward_pre_hook(note("late"))
    masked = model(tokens).logits
    assert not torch.equal(masked, with_theirs)
    calls.clear()
    ablation.remove()
    assert torch.equal(model(tokens).logits, with_theirs)
    assert calls == ["early", "late"]


@torch.no_grad()
def test_another_experts_implementation_chosen_while_masked_is_not_overwritten_by_accident() -> None:
    """A user who sets an implementation while a mask is on switches the mask off: the next proof would say so."""
    model = tiny_model("qwen3_moe")
    ablation = apply_mask(model, tiny_mask({(1, 0): (1,)}, means=1.0), "mean")
    model.set_experts_implementation("eager")
    with pytest.raises(CVoiceError, match="the mask did not act on"):
        apply_mask(model, tiny_mask({(1, 1): (1,)}, means=1.0), "mean")
    ablation.remove()


def test_a_mask_that_changes_nothing_is_an_error() -> None:
    model = tiny_model("llama")
    find_neurons(model)[0].down.weight.data[:, 3] = 0
    with pytest.raises(CVoiceError, match="changes nothing in this model"):
        apply_mask(model, tiny_mask({0: (3,)}))
