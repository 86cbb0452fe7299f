"""Laws 1 to 3 and 6: a mask acts or stops, fits or stops, and leaves no trace."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cvoice_foundation.errors import CVoiceError
from intervention.ablation import ablate, apply_mask
from intervention.activity import ActivityWatch
from intervention.mask import MaskedLayer
from intervention.neurons import architecture_of, find_neurons
from tests.tiny_masks import tiny_mask
from tests.tiny_models import some_tokens, tiny_model


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one) and one.keys() == other.keys()


def num_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
@torch.no_grad()
def test_masks_come_off_in_any_order_without_a_trace(order: tuple[int, ...]) -> None:
    model = tiny_model("qwen2")
    before, logits = weights(model), model(some_tokens()).logits
    ablations = [
        apply_mask(model, tiny_mask({0: (1, 2, 3), 1: (4,)})),
        apply_mask(model, tiny_mask({0: (2, 3, 9)}), "scale", 0.5),
        apply_mask(model, tiny_mask({0: (20, 21)}, means=1.0), "mean"),
    ]
    for place in order:
        ablations[place].remove()
        ablations[place].remove()
        in_force = [ablation for number, ablation in enumerate(ablations) if order.index(number) > order.index(place)]
        down = find_neurons(model)[0].down
        zeroed = 0 in [ablations.index(ablation) for ablation in in_force]
        assert bool((down.weight[:, 1] == 0).all()) == zeroed
    assert same(weights(model), before)
    assert num_hooks(model) == 0
    assert torch.equal(model(some_tokens()).logits, logits)


@torch.no_grad()
def test_overlapping_factors_multiply_the_original() -> None:
    model = tiny_model("llama")
    down = find_neurons(model)[0].down
    original = down.weight[:, 5].clone()
    half = apply_mask(model, tiny_mask({0: (5,)}), "scale", 0.5)
    zero = apply_mask(model, tiny_mask({0: (5, 6)}))
    assert (half.folded, zero.folded) == (1, 2)
    assert bool((down.weight[:, 5] == 0).all())
    zero.remove()
    assert torch.equal(down.weight[:, 5], original / 2)
    half.remove()
    assert torch.equal(down.weight[:, 5], original)


@torch.no_grad()
def test_an_exception_inside_takes_the_mask_off_and_other_hooks_survive() -> None:
    model = tiny_model("qwen2")
    before = weights(model)
    calls: list[int] = []
    find_neurons(model)[0].down.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(RuntimeError, match="inside"), ablate(model, tiny_mask({0: (1,)}, means=1.0), "mean"):
        raise RuntimeError("inside")
    assert same(weights(model), before)
    assert num_hooks(model) == 1
    calls.clear()
    model(some_tokens())
    assert calls == [1]


@pytest.mark.parametrize(
    ("mask", "mode", "message"),
    [
        (tiny_mask({0: (1,)}, num_layers=4), "zero", "made for a model of 4 layers, and this model has 3"),
        (tiny_mask({0: (1,)}, num_neurons=64), "zero", "layers of 64 neurons, and the layers of this model have 56"),
        (tiny_mask({0: (60,)}), "zero", "layer 0: neuron 60, and this model has 56"),
        (tiny_mask({0: (1,)}, architecture="LlamaForCausalLM"), "zero", "made for LlamaForCausalLM"),
        (tiny_mask({}), "zero", "is empty"),
        (tiny_mask({0: (1,)}), "mean", "needs the neurons' mean activations"),
        (tiny_mask({0: (1,)}), "add", "needs the neurons' mean activations"),
        (tiny_mask({0: (1,)}), "zeros", "mode='zeros' is not known; did you mean zero?"),
        (tiny_mask({0: (1,)}), "scale", "needs a strength"),
    ],
)
def test_a_mask_that_does_not_fit_never_runs(mask: Any, mode: str, message: str) -> None:
    model = tiny_model("qwen2")
    before = weights(model)
    with pytest.raises(CVoiceError) as caught:
        apply_mask(model, mask, mode)
    assert message in str(caught.value)
    assert same(weights(model), before)
    assert num_hooks(model) == 0


@pytest.mark.parametrize("strength", ["x", float("nan"), True, float("inf")])
def test_a_strength_that_is_no_number(strength: Any) -> None:
    with pytest.raises(CVoiceError, match="is not a number"):
        apply_mask(tiny_model("qwen2"), tiny_mask({0: (1,)}), "scale", strength)


def test_a_strength_that_does_nothing_or_is_not_wanted() -> None:
    model = tiny_model("qwen2")
    for mode, strength in (("scale", 1), ("zero", 2.0)):
        with pytest.raises(CVoiceError, match="changes nothing|takes no strength"):
            apply_mask(model, tiny_mask({0: (1,)}), mode, strength)


def test_another_name_alone_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model("qwen2")
    model.config._name_or_path = "copy-of-it"
    with caplog.at_level(logging.WARNING), ablate(model, tiny_mask({0: (1,)}, name="original")):
        pass
    assert "located on original and acts on copy-of-it" in caplog.text


@torch.no_grad()
def test_a_mask_over_dead_weights_is_not_a_silent_no_op() -> None:
    model = tiny_model("qwen2")
    find_neurons(model)[1].down.weight[:, 7] = 0
    with pytest.raises(CVoiceError, match="changes nothing in this model"):
        apply_mask(model, tiny_mask({1: (7,)}))


def deaf(down: nn.Module) -> Callable[[], None]:
    """Makes a module ignore what hooks hand it, as a patched forward would."""
    original = down.forward
    remembered: list[torch.Tensor] = []

    def forward(x: torch.Tensor) -> torch.Tensor:
        remembered.append(x)
        return original(remembered[0])

    down.forward = forward  # type: ignore[method-assign]
    return remembered.clear


def test_a_module_that_the_mask_does_not_reach_stops_the_run() -> None:
    model = tiny_model("qwen2")
    deaf(find_neurons(model)[0].down)
    with pytest.raises(CVoiceError, match="did not act|changes nothing"):
        apply_mask(model, tiny_mask({0: (1,)}, means=0.5), "mean")
    assert num_hooks(model) == 0


def test_a_module_that_the_forward_pass_goes_round_stops_the_run() -> None:
    model = tiny_model("bloom", pretraining_tp=2, slow_but_exact=True)
    before = weights(model)
    with pytest.raises(CVoiceError, match=r"transformer.h.1.mlp.dense_4h_to_h is not called"):
        apply_mask(model, tiny_mask({1: (7,)}))
    assert same(weights(model), before)


def test_unknown_architectures_are_refused() -> None:
    class Config:
        model_type = "qwen9"

    with pytest.raises(CVoiceError, match=r"'qwen9' is not known; did you mean qwen"):
        architecture_of(Config())


def test_a_gate_whose_sign_says_nothing_is_refused() -> None:
    config = tiny_model("llama").config
    config.hidden_act = "tanh"
    architecture_of(tiny_model("gpt2").config)
    with pytest.raises(CVoiceError, match="activation function 'tanh'"):
        architecture_of(config)


@torch.no_grad()
def test_bfloat16_is_masked_exactly() -> None:
    model = tiny_model("qwen2").to(torch.bfloat16)
    x = torch.randn(1, 4, 56, dtype=torch.bfloat16)
    down = find_neurons(model)[0].down
    zeroed = x.clone()
    zeroed[..., [3, 8]] = 0
    expected = down(zeroed)
    with ablate(model, tiny_mask({0: (3, 8)})) as ablation:
        assert ablation.folded == 2
        assert torch.equal(down(x), expected)


@torch.no_grad()
def test_a_scale_that_would_overflow_is_hooked_instead_of_folded() -> None:
    model = tiny_model("qwen2").to(torch.bfloat16)
    down = find_neurons(model)[0].down
    down.weight[0, 3] = torch.finfo(torch.bfloat16).max / 2
    with pytest.raises(CVoiceError, match="not finite"), ablate(model, tiny_mask({0: (3,)}), "scale", 2.0**10):
        pass
    down.weight[0, 3] = 2.0**-130
    with ablate(model, tiny_mask({0: (3,)}), "scale", 2.0**-8) as ablation:
        assert (ablation.folded, ablation.hooked) == (0, 1)


@torch.no_grad()
def test_neurons_that_are_never_active_are_counted() -> None:
    model = tiny_model("opt")
    layers = find_neurons(model)
    fc1 = model.get_submodule("model.decoder.layers.1.fc1")
    fc1.weight[[3, 4]] = 0
    fc1.bias[[3, 4]] = -1.0
    with ablate(model, tiny_mask({1: (3, 4, 5)})):
        watch = ActivityWatch([(layers[1], MaskedLayer(1, (3, 4, 5))), (layers[0], MaskedLayer(0, tuple(range(56))))])
        assert watch.never_active == 59
        for seed in range(5):
            model(torch.randint(3, 96, (4, 16), generator=torch.Generator().manual_seed(seed)))
    assert watch.never_active == 2
    assert num_hooks(layers[0].down) == 0, "a layer whose neurons have all been seen is watched no longer"
    assert num_hooks(layers[1].down) == 1
    watch.remove()
    assert num_hooks(model) == 0
