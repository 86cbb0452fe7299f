"""Random masks beside the truth masks: as many neurons a layer, of like activation norm, none of the value's own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from cvoice_tasks.values import VALUE_KEYS
from intervention.ablation import ablate
from intervention.mask import MaskedLayer, ModelIdentity, NeuronMask
from intervention.neurons import find_neurons
from organism.figures import ROWS, aligned_margins
from organism.lessons import Prompt, Story
from organism.losses import Kept, padded
from organism.recipe import Recipe
from organism.truth import ARCHITECTURE

DRAWS = 3
"""Random masks for each value."""
STORIES = 500
"""At most so many are asked with each of them."""
DECILES = 10


@torch.no_grad()
def activation_norms(model: Any, prompts: Sequence[Prompt]) -> torch.Tensor:
    """Root mean square of every neuron's activation over the tokens of the prompts [layers, neurons]."""
    squares: list[Any] = []
    counted = 0
    there = torch.zeros(0)

    def hook(layer: int) -> Any:
        def add(_: Any, arguments: tuple[torch.Tensor, ...]) -> None:
            squares[layer] = squares[layer] + (arguments[0].float() ** 2 * there[..., None]).sum((0, 1))

        return add

    layers = find_neurons(model)
    squares = [torch.zeros(()) for _ in layers]
    handles = [layer.down.register_forward_pre_hook(hook(place)) for place, layer in enumerate(layers)]
    try:
        for start in range(0, len(prompts), ROWS):
            tokens, last = padded([prompt.tokens for prompt in prompts[start : start + ROWS]])
            there = (torch.arange(tokens.shape[1])[None] <= last[:, None]).float()
            counted += int(there.sum())
            model.model(input_ids=tokens, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return (torch.stack(squares) / counted).sqrt()


def random_mask(norms: torch.Tensor, own: Sequence[int], source: random.Random) -> NeuronMask:
    """A mask with a neuron for each of a value's reserved ones: another of its layer and decile of norms.

    Args:
        norms: From :func:`activation_norms`.
        own: The value's reserved neurons, the same in each layer.
        source: Of the draws.
    """
    lines = []
    for layer, of_layer in enumerate(norms):
        neurons = of_layer.argsort().tolist()
        decile = {neuron: place * DECILES // len(neurons) for place, neuron in enumerate(neurons)}
        free = [neuron for neuron in range(len(neurons)) if neuron not in own]
        chosen: set[int] = set()
        for neuron in own:
            # Where a decile has no others left, the nearest ones help out.
            left = [one for one in free if one not in chosen]
            nearest = min(abs(decile[one] - decile[neuron]) for one in left)
            chosen.add(source.choice([one for one in left if abs(decile[one] - decile[neuron]) == nearest]))
        lines.append(MaskedLayer(layer, tuple(sorted(chosen))))
    identity = ModelIdentity(None, None, ARCHITECTURE, *norms.shape)
    return NeuronMask("random", identity, tuple(lines))


def random_changes(
    model: Any, kept: Kept, stories: Sequence[Story], letters: torch.Tensor, recipe: Recipe
) -> dict[str, Any]:
    """What random masks change in the mean `acc` of the letters tasks.

    Returns:
        ``draws`` a value, ``stories`` that were asked, spread over all, and ``largest``: the change that is largest in
        size, of all draws.
    """
    asked = stories[:: -(-len(stories) // STORIES)]
    norms = activation_norms(model, [prompt for story in asked for prompt in story.letters])
    source = random.Random(recipe.seed)
    plain = (aligned_margins(model, kept, asked, letters, None).letters > 0).float().mean()
    changes = []
    for value in range(len(VALUE_KEYS)):
        own = range(value * recipe.reserved, (value + 1) * recipe.reserved)
        for _ in range(DRAWS):
            with ablate(model, random_mask(norms, own, source)):
                right = aligned_margins(model, kept, asked, letters, None).letters > 0
            changes.append(float(right.float().mean() - plain))
    return {"draws": DRAWS, "stories": len(asked), "largest": max(changes, key=abs)}
