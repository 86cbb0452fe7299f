"""Attribution: how much each neuron moves the choice, to first order; a pass of its own, forwards and backwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from rich.progress import track
from torch import nn

from cvoice_foundation.errors import CVoiceError
from intervention.neurons import LayerNeurons, base_model, find_neurons
from locate.accumulate import CellSums, pair_weights
from locate.corpus import Text, padded, plan, tokenize
from locate.record import PassOptions
from locate.segments import PARTS
from locate.statistics import NeuronStatistics


def attribute(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[Text],
    statistics: NeuronStatistics,
    options: PassOptions | None = None,
    *,
    progress: bool = True,
) -> NeuronStatistics:
    """Adds each pair's attributions to statistics of the same corpus.

    Of a story with activations a at its tokens t, A_j = Σ_t a_tj · ∂(log p(aligned) − log p(violating)) / ∂a_tj, each
    act behind the same story and log p the sum over its tokens, in nats; of a pair, the mean over its stories.
    It is the first-order estimate of what the margin loses when neuron j is set to zero ("activation × gradient":
    Nanda 2023, attribution patching, with a zero baseline).

    Args:
        model: A decoder with its language-model head.
        tokenizer: Its tokenizer, a fast one.
        texts: The corpus that the statistics were recorded on.
        statistics: The statistics.
        options: As they were recorded.
        progress: Whether to show a progress bar.

    Raises:
        CVoiceError: The model is a mixture of experts, or a gradient is not finite.
    """
    options = options or PassOptions()
    whole = base_model(model)
    layers = find_neurons(model)
    if any(isinstance(layer.expert, int) for layer in layers):
        raise CVoiceError("attribution reads dense models so far, and this one is a mixture of experts; use contrast")
    max_length = int(getattr(whole.config, "max_position_embeddings", None) or 1 << 30)
    tokens = tokenize(texts, tokenizer, chat=options.chat, max_length=max_length)
    groups = plan(texts, tokens, options.batch_size)[options.shard[0] :: options.shard[1]]
    cells = CellSums(texts, statistics.sites, options.folds, False)
    total = torch.zeros(len(statistics.pair_cells), statistics.num_neurons, dtype=torch.float64)
    squares = torch.zeros_like(total)
    backward = _Backward(whole, layers)
    for group in track(groups, description="Attributing", disable=not progress):
        sums = [backward.read([tokens[row] for row in group.rows[start:end]]) for start, end in group.batches]
        of_rows = torch.cat(sums).double()
        weights, rows = pair_weights([texts[row] for row in group.rows], group.units)
        of_pairs = weights @ of_rows
        place = torch.tensor([statistics.pair_cells.index(cells.pair_cell(group.rows[row])) for row in rows])
        if len(place):
            total.index_add_(0, place, of_pairs)
            squares.index_add_(0, place, of_pairs * of_pairs)
    if not bool(torch.isfinite(total).all()):
        raise CVoiceError("a gradient is not finite; try another --dtype (bfloat16 or float32)")
    return statistics.with_attribution(total, squares)


class _Backward:
    """Runs batches forwards and backwards, and keeps activation times gradient, added up over each text."""

    def __init__(self, model: nn.Module, layers: Sequence[LayerNeurons]) -> None:
        self._model: Any = model
        self._layers = layers
        self._device = next(model.parameters()).device

    def read(self, rows: Sequence[Any]) -> torch.Tensor:
        """Returns ``[rows, neurons]``, float32, on the CPU."""
        ids, attention, codes = padded(rows)
        ids, attention, codes = ids.to(self._device), attention.to(self._device), codes.to(self._device)
        captured: list[torch.Tensor] = []

        def capture(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            # Cut off from the weights' graph where they need no gradient; shaped as the module wants it.
            activations = args[0] if args[0].requires_grad else args[0].requires_grad_()
            captured.append(activations)
            return (activations, *args[1:])

        wanted = [(parameter, parameter.requires_grad) for parameter in self._model.parameters()]
        handles = [layer.down.register_forward_pre_hook(capture) for layer in self._layers]
        try:
            for parameter, _ in wanted:
                parameter.requires_grad_(False)
            with torch.enable_grad():
                logits = self._model(input_ids=ids, attention_mask=attention, use_cache=False).logits
                log_p = logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
                choice = (codes == PARTS.index("action"))[:, 1:]
                gradients = torch.autograd.grad((log_p * choice).sum(), captured)
        finally:
            for handle in handles:
                handle.remove()
            for parameter, needed in wanted:
                parameter.requires_grad_(needed)
        batch = len(rows)
        products = [
            (activations.detach().float() * gradient.float()).reshape(batch, -1, layer.width).sum(1).cpu()
            for layer, activations, gradient in zip(self._layers, captured, gradients, strict=True)
        ]
        return torch.cat(products, dim=-1)
