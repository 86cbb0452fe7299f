"""A model whose weights are set by hand, so that known neurons fire on known words and no other neuron ever does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.tiny_checkpoint import WORDS, tiny_checkpoint


@torch.no_grad()
def planted_model(
    folder: Path, neurons: Mapping[tuple[int, int], Sequence[int]], layers: int = 3, width: int = 16
) -> tuple[Any, Any]:
    """A Llama whose residual stream is the one-hot word, with attention and MLPs that add nothing.

    Args:
        folder: For its tokenizer.
        neurons: (layer, neuron) -> numbers of the words that it fires on.
        layers: How many.
        width: Neurons a layer.
    """
    tiny_checkpoint(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=len(WORDS),
        intermediate_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=8,
        max_position_embeddings=128,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        parameter.zero_()
    model.model.embed_tokens.weight.copy_(torch.eye(len(WORDS)))
    for layer in model.model.layers:
        layer.input_layernorm.weight.fill_(1)
        layer.post_attention_layernorm.weight.fill_(1)
        layer.mlp.gate_proj.weight.fill_(-1)  # every word turns every other neuron off
    for (layer, neuron), words in neurons.items():
        mlp = model.model.layers[layer].mlp
        for word in words:
            mlp.gate_proj.weight[neuron, WORDS.index(f"w{word}")] = 1
            mlp.up_proj.weight[neuron, WORDS.index(f"w{word}")] = 1
    return model, tokenizer
