"""What observe hands over equals activations computed by hand, for dense layers, shared experts and experts alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from intervention.ablation import ablate
from intervention.neurons import SHARED, Expert, find_neurons
from intervention.observe import Observed, observe
from tests.tiny_masks import tiny_mask
from tests.tiny_models import DENSE, MIXTURES, some_tokens, tiny_model

Counts = dict[tuple[int, Expert], tuple[torch.Tensor, torch.Tensor, list[int] | None]]


def _observed(model: Any, tokens: torch.Tensor) -> Counts:
    counts: Counts = {}

    def note(seen: Observed) -> None:
        assert seen.activations.shape == seen.fired.shape
        for expert, rows in seen.by_expert():
            assert (seen.layer, expert) not in counts
            tokens = None if seen.tokens is None else seen.tokens[rows].tolist()
            counts[seen.layer, expert] = (seen.activations[rows].clone(), seen.fired[rows], tokens)

    with observe(model, note):
        model(tokens)
    return counts


def _by_hand(model: Any, tokens: torch.Tensor) -> Counts:
    """From the inputs of each MLP, with plain hooks and the weights."""
    counts: Counts = {}
    handles: list[Any] = []
    seen: dict[str, torch.Tensor] = {}
    for mlp in find_neurons(model):
        if mlp.experts is None:

            def at_down(_: Any, args: Any, mlp: Any = mlp) -> None:
                act = args[0].reshape(-1, mlp.width)
                gate = seen.get(mlp.name, act)
                counts[mlp.layer, mlp.expert] = (act, gate.reshape(len(act), -1)[:, : mlp.width] > 0, None)

            handles.append(mlp.down.register_forward_pre_hook(at_down))
            if mlp.gate is not None:
                handles.append(mlp.gate.register_forward_hook(lambda _m, _a, out, n=mlp.name: seen.update({n: out})))
        elif mlp.expert == 0:

            def at_experts(experts: Any, args: Any, mlp: Any = mlp) -> None:
                for expert in range(len(experts.down_proj)):
                    up = experts.gate_up_proj[expert]
                    if len(args) == 1:  # Llama 4
                        hidden = args[0].view(len(experts.down_proj), -1, args[0].shape[-1])[expert]
                        rows = (hidden != 0).any(-1).nonzero().flatten()
                        gates = hidden[rows] @ up
                    else:
                        rows = (args[1] == expert).any(-1).nonzero().flatten()
                        bias = experts.gate_up_proj_bias[expert] if experts.has_bias else 0
                        gates = args[0][rows] @ (up if experts.is_transposed else up.T) + bias
                    if not len(rows):
                        continue
                    if mlp.fired == "gate_even":
                        gate, values = gates[:, ::2], gates[:, 1::2]
                        act = (values + 1) * gate * torch.sigmoid(gate * experts.alpha)
                    else:
                        gate, values = gates.chunk(2, -1)
                        act = torch.nn.functional.silu(gate) * values
                    counts[mlp.layer, expert] = (act, gate > 0, rows.tolist())

            handles.append(mlp.module.register_forward_pre_hook(at_experts))
    model(tokens)
    for handle in handles:
        handle.remove()
    return counts


@pytest.mark.parametrize("model_type", [*DENSE, *MIXTURES])
@torch.no_grad()
def test_counts_equal_counts_by_hand(model_type: str) -> None:
    model, tokens = tiny_model(model_type), some_tokens(3, 11)
    plain = model(tokens).logits
    expected, seen = _by_hand(model, tokens), _observed(model, tokens)
    assert set(seen) == set(expected)
    for place, (activations, fired, rows) in expected.items():
        found_activations, found_fired, found_rows = seen[place]
        order = slice(None) if found_rows is None else torch.tensor(found_rows).argsort()
        assert (None if found_rows is None else sorted(found_rows)) == rows
        torch.testing.assert_close(found_activations[order], activations)
        assert torch.equal(found_fired[order].sum(0), fired.sum(0))
    assert torch.equal(model(tokens).logits, plain)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


@torch.no_grad()
def test_a_mask_in_force_is_not_what_is_observed() -> None:
    model, tokens = tiny_model("qwen2_moe"), some_tokens()
    layer = 1
    plain = _observed(model, tokens)
    mask = tiny_mask({(layer, 0): (1,), (layer, 1): (1,), (layer, SHARED): (1,)}, means=9.0)
    with ablate(model, mask, "mean"):
        masked = _observed(model, tokens)
    for expert in (0, 1, SHARED):
        assert torch.equal(plain[layer, expert][0], masked[layer, expert][0])
    assert not torch.equal(plain[layer + 1, SHARED][0], masked[layer + 1, SHARED][0])
    assert model.config._experts_implementation == "grouped_mm"
