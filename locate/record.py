"""One pass of a model over a corpus: activations in, statistics out.

Nothing is kept of a batch but its counts, so memory does not grow with the corpus; the language-model head is not
run; the device is never waited for inside the loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.progress import track
from torch import nn

from cvoice_foundation.errors import CVoiceError
from intervention.neurons import LayerNeurons, base_model, expert_label, find_neurons
from locate.corpus import Text, batches, corpus_sha256
from locate.statistics import NeuronStatistics


class _Accumulator:
    """Running counts of every layer, ``[classes, neurons]`` each, on the layer's own device."""

    def __init__(self, layers: Sequence[LayerNeurons], classes: int) -> None:
        widths = {layer.width for layer in layers}
        parts = sorted({expert_label(layer.expert) for layer in layers if layer.expert is not None})
        if parts:
            raise CVoiceError(
                f"this model is a mixture of experts ({len(parts)} kinds of MLP: {parts[0]}, ...), and locating counts "
                "dense models only so far; masks made elsewhere can be applied to it"
            )
        if len(widths) != 1:
            raise CVoiceError(
                f"the layers of this model have different numbers of neurons ({sorted(widths)}), and locating takes "
                "models whose layers have one width"
            )
        self._layers = layers
        self._classes = classes
        self._fired: list[torch.Tensor | None] = [None] * len(layers)
        self._total: list[torch.Tensor | None] = [None] * len(layers)
        self.one_hot = torch.empty(0)

    def hooks(self) -> list[Any]:
        handles: list[Any] = []
        for place, layer in enumerate(self._layers):
            handles.append(layer.down.register_forward_pre_hook(self._at_input(place, layer.fired == "input")))
            if layer.gate is not None:
                handles.append(layer.gate.register_forward_hook(self._at_gate(place, layer.fired == "gate_half")))
        return handles

    def _at_input(self, place: int, counts_fired: bool) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            # OPT flattens batch and sequence, so only the last axis is relied on.
            activations = args[0].detach().flatten(0, -2)
            self._total[place] = self._add(self._total[place], activations.float(), torch.float64)
            if counts_fired:
                self._fired[place] = self._add(self._fired[place], (activations > 0).float(), torch.int64)

        return hook

    def _at_gate(self, place: int, first_half: bool) -> Any:
        def hook(_: nn.Module, __: Any, output: torch.Tensor) -> None:
            gate = output.detach().flatten(0, -2)
            if first_half:
                gate = gate[:, : gate.shape[-1] // 2]
            self._fired[place] = self._add(self._fired[place], (gate > 0).float(), torch.int64)

        return hook

    def _add(self, running: torch.Tensor | None, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Adds ``[classes, tokens] @ [tokens, neurons]``; counts in float32 are exact up to 2^24 tokens a batch."""
        one_hot = self.one_hot.to(rows.device)
        counted = (one_hot @ rows).to(dtype)
        return counted if running is None else running + counted

    def result(self, which: str) -> torch.Tensor:
        parts = self._fired if which == "fired" else self._total
        missing = [layer.name for layer, part in zip(self._layers, parts, strict=True) if part is None]
        if missing:
            raise CVoiceError(f"{missing[0]} was not called in the forward pass, so its neurons cannot be counted")
        return torch.stack([part.cpu() for part in parts if part is not None], dim=1)


@torch.no_grad()
def record(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[Text],
    *,
    batch_size: int = 8,
    header: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> NeuronStatistics:
    """Runs a model over a corpus once and counts, for every class, on how many tokens each neuron fires.

    Args:
        model: A transformers decoder with a head; the head is not run.
        tokenizer: Its tokenizer.
        texts: The corpus; each text counts for its (value, language).
        batch_size: Texts a batch.
        header: What to note in the statistics beside the corpus.
        progress: Whether to show a progress bar.

    Returns:
        Counts exact in int64, sums in float64 over float32 batch sums.

    Raises:
        CVoiceError: The corpus is empty, the architecture is not known, or activations are not finite.
    """
    if not texts:
        raise CVoiceError("the corpus is empty; give items with --data FILE, or leave it out for the bundled ones")
    whole = base_model(model)
    config: Any = whole.config
    layers = find_neurons(model)
    classes = tuple(dict.fromkeys((text.value, str(text.language)) for text in texts))
    class_of = torch.tensor([classes.index((text.value, str(text.language))) for text in texts])
    accumulator = _Accumulator(layers, len(classes))
    tokens = torch.zeros(len(classes), dtype=torch.int64)
    decoder: Any = getattr(whole, str(getattr(whole, "base_model_prefix", "")), whole)
    device = next(whole.parameters()).device
    max_length = int(getattr(config, "max_position_embeddings", None) or 1 << 30)
    plan = batches(texts, tokenizer, batch_size, max_length)
    steps = -(-len(texts) // batch_size)
    handles = accumulator.hooks()
    try:
        for batch in track(plan, description="Locating", total=steps, disable=not progress):
            rows = class_of[list(batch.texts)]
            tokens.index_add_(0, rows, batch.counted.sum(1))
            one_hot = torch.zeros(len(classes), *batch.counted.shape)
            one_hot[rows, torch.arange(len(rows))] = batch.counted.float()
            accumulator.one_hot = one_hot.flatten(1).to(device)
            decoder(
                input_ids=batch.input_ids.to(device),
                attention_mask=batch.attention_mask.to(device),
                use_cache=False,
            )
    finally:
        for handle in handles:
            handle.remove()
    total = accumulator.result("total")
    if not bool(torch.isfinite(total).all()):
        layer = int((~torch.isfinite(total)).any(-1).any(0).nonzero()[0])
        raise CVoiceError(f"activations of layer {layer} are not finite; try another --dtype (bfloat16 or float32)")
    return NeuronStatistics(
        classes=classes,
        tokens=tokens,
        questions=torch.bincount(class_of, minlength=len(classes)),
        fired=accumulator.result("fired"),
        total=total,
        header={
            **(header or {}),
            "corpus": {"sha256": corpus_sha256(texts), "tokens": int(tokens.sum()), "texts": len(texts)},
        },
    )
