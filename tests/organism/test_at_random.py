"""Random masks match layer by layer and in norm, and never hold the value's own neurons."""

from __future__ import annotations

import random

import torch

from organism.at_random import DECILES, activation_norms, random_mask
from tests.organism.test_losses import PROMPTS, tiny


@torch.no_grad()
def test_norms_are_those_by_hand() -> None:
    model = tiny()
    norms = activation_norms(model, PROMPTS)
    seen: list[torch.Tensor] = []
    handle = model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _, a: seen.append(a[0][0]))
    for prompt in PROMPTS:
        model(torch.tensor([prompt.tokens]))
    handle.remove()
    by_hand = (torch.cat(seen) ** 2).mean(0).sqrt()
    assert torch.allclose(norms[1], by_hand, atol=1e-5)


def test_masks_match_in_layer_count_and_decile_and_are_others() -> None:
    norms = torch.rand(3, 200, generator=torch.Generator().manual_seed(0))
    own = range(20, 30)
    mask = random_mask(norms, own, random.Random(1))
    assert [line.layer for line in mask.layers] == [0, 1, 2]
    for line in mask.layers:
        assert len(line.neurons) == len(own)
        assert not set(line.neurons) & set(own)
        rank = norms[line.layer].argsort().argsort()
        deciles = [sorted((rank[list(part)] * DECILES // 200).tolist()) for part in (own, line.neurons)]
        assert deciles[0] == deciles[1]
