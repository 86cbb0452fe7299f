"""A model built by hand that keeps each value in one known neuron, and items that it answers right by it alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.items_for_tests import write_items

VALUES = ("integrity", "freedom")
LAYER = 1
NEURONS = {"integrity": 5, "freedom": 11}
"""Where the model keeps each value, in layer 1 of 2; there are 32 neurons a layer."""

_ONE, _SAYS_A = 0, 3
_MARK = {"integrity": 1, "freedom": 2}


def circuit_model(folder: Path) -> str:
    """Writes the model; returns its folder's name.

    The words "A. Upholds integrity" are one token. Layer 0 spreads it over the rest of the prompt, in layer 1 the
    value's neuron fires on it and says A; where no neuron fires, the model says B. All others do next to nothing.
    """
    words = ("<pad>", "<unk>", "A", "B", *(_marker(value) for value in VALUES))
    vocabulary = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words[:4])}, unk_token="<unk>"))
    vocabulary.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    vocabulary.add_tokens([AddedToken(_marker(value), normalized=False) for value in VALUES])
    PreTrainedTokenizerFast(
        tokenizer_object=vocabulary, pad_token="<pad>", unk_token="<unk>", eos_token="<pad>"
    ).save_pretrained(folder)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": len(words)}
    sizes |= {"max_position_embeddings": 512, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0}
    config = LlamaConfig(**sizes)
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
            elif ".mlp." in name:
                parameter.copy_(1e-2 * torch.randn(parameter.shape, generator=generator))
            else:
                parameter.zero_()
        decoder = model.model
        decoder.embed_tokens.weight[:, _ONE] = 1.0
        # Queries and keys are 0, so every token attends to all before it alike.
        spread, mlp = decoder.layers[0].self_attn, decoder.layers[LAYER].mlp
        for value, dimension in _MARK.items():
            decoder.embed_tokens.weight[words.index(_marker(value)), dimension] = 1.0
            spread.v_proj.weight[dimension, dimension] = 1.0
            spread.o_proj.weight[dimension, dimension] = 200.0
            neuron = NEURONS[value]
            mlp.gate_proj.weight[neuron] = mlp.up_proj.weight[neuron] = mlp.down_proj.weight[:, neuron] = 0.0
            mlp.gate_proj.weight[neuron, dimension] = 1.0
            mlp.up_proj.weight[neuron, dimension] = 1.0
            mlp.down_proj.weight[_SAYS_A, neuron] = 4.0
        model.lm_head.weight[words.index("A"), _SAYS_A] = 5.0
        model.lm_head.weight[words.index("B"), _ONE] = 1.0
    model.save_pretrained(folder)
    return str(folder)


def circuit_items(folder: Path, count: int = 10) -> Path:
    """A ``data_dir`` of ``count`` English items a value, no twins."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "id": f"{value}-{number}",
            "value": value,
            "story": f"Story {number}.",
            "aligned": f"Upholds {value} in case {number}.",
            "violating": f"Gives {value} up in case {number}.",
        }
        for value in VALUES
        for number in range(1, count + 1)
    ]
    write_items(folder / "evaluation.en.jsonl", lines)
    return folder


def _marker(value: str) -> str:
    return f"A. Upholds {value}"
