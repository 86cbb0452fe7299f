"""Every dense architecture of the table: identity, masked = by hand, undo, generate."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from intervention.ablation import ablate
from intervention.neurons import find_neurons, known_architectures
from tests.tiny_masks import tiny_mask
from tests.tiny_models import DENSE, MIXTURES, some_tokens, tiny_model


def test_every_architecture_of_the_table_is_tested() -> None:
    assert set(DENSE) | set(MIXTURES) == set(known_architectures())


@pytest.mark.parametrize("model_type", DENSE)
@torch.no_grad()
def test_mask_equals_zeroed_columns_and_leaves_no_trace(model_type: str) -> None:
    model = tiny_model(model_type)
    layers = find_neurons(model)
    tokens = some_tokens()
    plain = model(tokens).logits

    by_hand = copy.deepcopy(model)
    neurons = (3, 5, layers[0].width - 1)
    for layer in (0, len(layers) - 1):
        down = find_neurons(by_hand)[layer].down
        if isinstance(down, Conv1D):
            down.weight[list(neurons)] = 0
        else:
            down.weight[:, list(neurons)] = 0
    expected = by_hand(tokens).logits
    assert not torch.equal(expected, plain)

    mask = tiny_mask({0: neurons, len(layers) - 1: neurons}, num_layers=len(layers), num_neurons=layers[0].width)
    with ablate(model, mask) as ablation:
        assert (ablation.folded, ablation.hooked) == (6, 0)
        assert torch.equal(model(tokens).logits, expected)
        masked_text = model.generate(tokens, max_new_tokens=6, do_sample=False, use_cache=True)
        assert torch.equal(masked_text, by_hand.generate(tokens, max_new_tokens=6, do_sample=False, use_cache=True))
    assert torch.equal(model(tokens).logits, plain)
    for name, before in tiny_model(model_type).state_dict().items():
        assert torch.equal(model.state_dict()[name], before), name


@pytest.mark.parametrize("model_type", DENSE)
@torch.no_grad()
def test_generation_with_cache_is_masked_on_every_step(model_type: str) -> None:
    """Step logits of a cached generation equal those of masked forward passes without a cache, to rounding."""
    model = tiny_model(model_type)
    layers = find_neurons(model)
    mask = tiny_mask({0: (1, 2, 3), 1: (4, 5)}, num_layers=len(layers), means=0.5)
    tokens = some_tokens(1)
    with ablate(model, mask, mode="mean") as ablation:
        assert (ablation.folded, ablation.hooked) == (0, 5)
        calls = {0: 0}
        handle = layers[0].down.register_forward_hook(lambda *_: calls.update({0: calls[0] + 1}))
        out = model.generate(
            tokens,
            max_new_tokens=4,
            min_new_tokens=4,
            do_sample=False,
            use_cache=True,
            output_logits=True,
            return_dict_in_generate=True,
        )
        handle.remove()
        assert calls[0] == 4
        again = model(out.sequences[:, :-1], use_cache=False).logits[:, tokens.shape[1] - 1 :]
    torch.testing.assert_close(torch.stack(out.logits, 1), again, rtol=1e-4, atol=1e-5)
    unmasked = model(out.sequences[:, :-1], use_cache=False).logits[:, tokens.shape[1] - 1 :]
    assert ((unmasked - again).abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize("model_type", DENSE)
@torch.no_grad()
def test_mean_scale_and_add_follow_their_formulas(model_type: str) -> None:
    model = tiny_model(model_type)
    layer = find_neurons(model)[1]
    num_layers = len(find_neurons(model))
    neurons = (0, 7, 9)
    mask = tiny_mask({1: neurons}, num_layers=num_layers, means=0.25)
    x = torch.randn(2, 3, layer.width)
    means = torch.tensor([0.25 + n / 10 for n in neurons])
    plain = layer.down(x)
    for mode, strength, new in (
        ("mean", None, means.expand(2, 3, 3)),
        ("scale", 1.7, x[..., list(neurons)] * 1.7),
        ("scale", 4.0, x[..., list(neurons)] * 4),
        ("add", 2.0, x[..., list(neurons)] + 2 * means),
        ("add", None, x[..., list(neurons)] + means),
    ):
        changed = x.clone()
        changed[..., list(neurons)] = new
        expected = layer.down(changed)
        with ablate(model, mask, mode=mode, strength=strength) as ablation:
            assert torch.equal(layer.down(x), expected), mode
            assert ablation.folded == (3 if strength == 4.0 else 0)
        assert torch.equal(layer.down(x), plain)
