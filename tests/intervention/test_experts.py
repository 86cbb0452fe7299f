"""Every mixture of experts of the table: identity, masked = by hand, formulas, undo, generate, routing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from cvoice_foundation.errors import CVoiceError
from intervention.ablation import ablate, apply_mask
from intervention.experts import dispatched
from intervention.neurons import SHARED, LayerNeurons, find_neurons
from tests.tiny_masks import tiny_mask
from tests.tiny_models import MIXTURES, some_tokens, tiny_model

DISPATCHED = [name for name in MIXTURES if name != "llama4_text"]


def _mask(model: PreTrainedModel, means: float | None = None) -> Any:
    """Neurons 3, 5 and the last of every dense layer, shared expert, and of all experts but expert 2."""
    neurons = find_neurons(model)
    return tiny_mask(
        {(mlp.layer, mlp.expert): (3, 5, mlp.width - 1) for mlp in neurons if mlp.expert != 2},
        num_layers=neurons[-1].layer + 1,
        num_neurons=max(mlp.width for mlp in neurons),
        means=means,
    )


def _zero_by_hand(mlp: LayerNeurons, neurons: tuple[int, ...]) -> None:
    if mlp.experts is None:
        mlp.down.weight.data[:, list(neurons)] = 0
    elif mlp.fired == "gate_even" or not mlp.experts.dispatched:  # [E, in, out]
        mlp.module.down_proj.data[mlp.expert, list(neurons), :] = 0
    else:
        mlp.module.down_proj.data[mlp.expert, :, list(neurons)] = 0


def _reference(
    experts: Any, change: dict[int, Any], hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """The experts' output token by token, straight from the weights, with a change of some experts' activations."""
    out = torch.zeros_like(hidden)
    for token in range(len(hidden)):
        for place in range(index.shape[1]):
            expert = int(index[token, place])
            up, down = experts.gate_up_proj[expert], experts.down_proj[expert]
            x = hidden[token : token + 1]
            if experts.is_transposed:
                act = experts._apply_gate(x @ up + experts.gate_up_proj_bias[expert])
                result = change.get(expert, lambda a: a)(act) @ down + experts.down_proj_bias[expert]
            else:
                act = experts._apply_gate(functional.linear(x, up))
                result = functional.linear(change.get(expert, lambda a: a)(act), down)
            out[token] += result[0] * weights[token, place]
    return out


@pytest.mark.parametrize("model_type", MIXTURES)
@torch.no_grad()
def test_mask_equals_zeroed_weights_and_leaves_no_trace(model_type: str) -> None:
    model, tokens = tiny_model(model_type), some_tokens()
    plain = model(tokens).logits
    mask = _mask(model)
    by_hand = copy.deepcopy(model)
    for mlp in find_neurons(by_hand):
        if mlp.expert != 2:
            _zero_by_hand(mlp, (3, 5, mlp.width - 1))
    expected = by_hand(tokens).logits
    assert not torch.equal(expected, plain)

    with ablate(model, mask) as ablation:
        assert (ablation.folded, ablation.hooked) == (mask.num_masked, 0)
        assert torch.equal(model(tokens).logits, expected)
        masked_text = model.generate(tokens, max_new_tokens=5, do_sample=False, use_cache=True)
        assert torch.equal(masked_text, by_hand.generate(tokens, max_new_tokens=5, do_sample=False, use_cache=True))
    assert torch.equal(model(tokens).logits, plain)
    for name, before in tiny_model(model_type).state_dict().items():
        assert torch.equal(model.state_dict()[name], before), name


@pytest.mark.parametrize("model_type", DISPATCHED)
@torch.no_grad()
def test_mean_scale_and_add_follow_their_formulas(model_type: str) -> None:
    model, tokens = tiny_model(model_type), some_tokens()
    plain = model(tokens).logits
    layer = find_neurons(model)[-1].layer
    mlp = next(mlp for mlp in find_neurons(model) if mlp.layer == layer and mlp.expert == 1)
    neurons = [0, 7, 9]
    mask = tiny_mask({(layer, 1): (0, 7, 9)}, num_layers=layer + 1, means=0.25)
    means = torch.tensor([0.25 + n / 10 for n in neurons])
    hidden = torch.randn(6, 32) * 30  # weights are of the size 0.02: activations should be of the size 1
    index = torch.tensor([[0, 1], [1, 2], [3, 2], [2, 0], [1, 3], [0, 3]])
    weights = torch.rand(6, 2)
    experts: Any = mlp.module
    untouched = experts(hidden, index, weights)
    torch.testing.assert_close(untouched, _reference(experts, {}, hidden, index, weights))
    formulas = {
        ("mean", None): lambda a: means.expand(len(a), 3),
        ("scale", 1.7): lambda a: a[:, neurons] * 1.7,
        ("scale", 4.0): lambda a: a[:, neurons] * 4,
        ("add", -2.0): lambda a: a[:, neurons] - 2 * means,
    }
    for (mode, strength), formula in formulas.items():
        change = {1: lambda a, formula=formula: a.index_copy(-1, torch.tensor(neurons), formula(a))}
        expected = _reference(experts, change, hidden, index, weights)
        with ablate(model, mask, mode=mode, strength=strength) as ablation:
            assert ablation.folded == (3 if strength == 4.0 else 0)
            masked = experts(hidden, index, weights)
            torch.testing.assert_close(masked, expected)
            assert torch.equal(masked[[2, 3, 5]], untouched[[2, 3, 5]])  # tokens that expert 1 is not given
            assert ((masked - untouched)[[0, 1, 4]].abs().amax(-1) > 1e-4).all()
        assert torch.equal(model(tokens).logits, plain)
        assert model.config._experts_implementation == "grouped_mm"


@pytest.mark.parametrize("model_type", DISPATCHED)
@torch.no_grad()
def test_generation_with_cache_is_masked_on_every_step(model_type: str) -> None:
    """Step logits of a cached generation equal those of masked forward passes without a cache, to rounding."""
    model, tokens = tiny_model(model_type), some_tokens(1)
    with ablate(model, _mask(model, means=2.0), mode="mean") as ablation:
        assert ablation.folded == 0
        settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "use_cache": True}
        out = model.generate(tokens, **settings, output_logits=True, return_dict_in_generate=True)
        again = model(out.sequences[:, :-1], use_cache=False).logits[:, tokens.shape[1] - 1 :]
    torch.testing.assert_close(torch.stack(out.logits, 1), again, rtol=1e-3, atol=1e-4)
    unmasked = model(out.sequences[:, :-1], use_cache=False).logits[:, tokens.shape[1] - 1 :]
    assert ((unmasked - again).abs().amax(-1) > 1e-3).all()


@torch.no_grad()
def test_adapted_and_compiled_mixtures() -> None:
    from peft import LoraConfig, get_peft_model

    tokens = some_tokens()
    mask = tiny_mask({(1, 0): (1, 2), (1, 3): (5,), (2, SHARED): (4,)}, means=3.0)
    model = tiny_model("qwen2_moe")
    torch.manual_seed(2)
    adapted: Any = get_peft_model(
        model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    )
    plain = adapted(tokens).logits
    for mode, folded in (("zero", 3), ("mean", 0)):
        with ablate(adapted, mask, mode) as ablation:
            assert ablation.folded == folded  # the shared expert's projection carries the adapter, and is hooked
            assert not torch.equal(adapted(tokens).logits, plain)
        assert torch.equal(adapted(tokens).logits, plain)

    model = tiny_model("qwen2_moe")
    plain = model(tokens).logits
    with ablate(model, mask, "mean"):
        expected = model(tokens).logits
    compiled: Any = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(tokens).logits, plain)
    with ablate(compiled, mask, "mean"):
        torch.testing.assert_close(compiled(tokens).logits, expected)
        assert not torch.allclose(expected, plain, atol=1e-3)
    torch.testing.assert_close(compiled(tokens).logits, plain)
    torch.compiler.reset()


@pytest.mark.parametrize("before", ["eager", "batched_mm", "grouped_mm"])
@torch.no_grad()
def test_the_users_experts_implementation_comes_back(before: str) -> None:
    model, tokens = tiny_model("qwen3_moe"), some_tokens()
    model.set_experts_implementation(before)
    plain = model(tokens).logits
    first = apply_mask(model, tiny_mask({(1, 0): (1,)}, means=1.0), mode="mean")
    second = apply_mask(model, tiny_mask({(2, 3): (1,)}, means=1.0), mode="add")
    both = model(tokens).logits
    first.remove()
    only_second = model(tokens).logits
    assert not torch.equal(both, only_second)
    second.remove()
    assert model.config._experts_implementation == before
    assert torch.equal(model(tokens).logits, plain)


def test_llama4_experts_refuse_what_cannot_be_folded() -> None:
    model, tokens = tiny_model("llama4_text"), some_tokens()
    with torch.no_grad():
        plain = model(tokens).logits
        mask = tiny_mask({(1, 2): (1, 4)}, means=1.0)
        for mode, strength in (("mean", None), ("add", 1.0), ("scale", 1.5)):
            with pytest.raises(CVoiceError, match="experts interface, so only mode=zero"):
                apply_mask(model, mask, mode, strength)
        with ablate(model, mask, "scale", 2.0) as ablation:
            assert ablation.folded == 2
        with ablate(model, tiny_mask({(1, "shared"): (1,), (0, None): (2,)}, means=1.0), "mean") as ablation:
            assert ablation.hooked == 2
        assert torch.equal(model(tokens).logits, plain)


def test_a_line_must_fit_its_own_mlp() -> None:
    model = tiny_model("qwen2_moe")  # dense 56, experts 24, shared 40
    for place, neuron, complaint in (
        ((1, 0), 24, "neuron 24, and this model has 24"),
        ((1, "shared"), 40, "neuron 40, and this model has 40"),
        ((1, 4), 0, "neurons of expert 4, and this model has experts 0-3 and a shared expert there"),
        ((1, None), 0, "neurons of dense, and this model has experts 0-3 and a shared expert there"),
        ((0, 1), 0, "neurons of expert 1, and this model has one dense MLP there"),
    ):
        with pytest.raises(CVoiceError, match=complaint):
            apply_mask(model, tiny_mask({place: (neuron,)}, num_neurons=56))  # type: ignore[misc]
    with pytest.raises(CVoiceError, match="made for layers of 24 neurons, and the layers of this model have 56"):
        apply_mask(model, tiny_mask({(1, 0): (1,)}, num_neurons=24))


def test_experts_have_no_projection_to_hook() -> None:
    mlp = next(mlp for mlp in find_neurons(tiny_model("mixtral")) if mlp.expert == 0)
    assert dispatched(mlp)
    with pytest.raises(CVoiceError, match="no down projection of their own"):
        _ = mlp.down


@torch.no_grad()
def test_an_experts_module_that_is_not_dispatched_is_caught() -> None:
    """A kernel that replaces the experts' forward pass would make a mask a silent no-op: the proof refuses it."""
    model = tiny_model("mixtral")
    experts: Any = find_neurons(model)[0].module
    reference = _reference

    def kernel(self: nn.Module, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return reference(self, {}, hidden, index, weights)

    experts.forward = kernel.__get__(experts)
    with pytest.raises(CVoiceError, match="the mask did not act on"):
        apply_mask(model, tiny_mask({(0, 1): (1,)}, means=1.0), mode="mean")
    assert model.config._experts_implementation == "grouped_mm"
