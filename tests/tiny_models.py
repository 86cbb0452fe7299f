"""Tiny random models of every architecture, built from configs: two to four layers of 56 (or 128) neurons."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

_COMMON: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GPT: dict[str, Any] = {"n_embd": 32, "n_inner": 56, "n_layer": 3, "n_head": 4, "n_positions": 128, "vocab_size": 96}
_GPT |= {"bos_token_id": 1, "eos_token_id": 2}

DENSE: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        (
            *("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo2", "cohere", "granite"),
            *("smollm3", "internlm3", "seed_oss", "hunyuan_v1_dense", "ernie4_5", "stablelm", "nemotron", "phi"),
            *("phi3", "glm", "glm4", "starcoder2", "gpt_neox"),
        ),
        _COMMON,
    ),
    "qwen3_5_text": _COMMON
    | {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
    | {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "num_hidden_layers": 4}
    | {"layer_types": ["linear_attention", "full_attention"] * 2},
    "gemma3": {"text_config": _COMMON, "mm_tokens_per_image": 4, "image_token_index": 90, "boi_token_index": 91}
    | {
        "eoi_token_index": 92,
        "vision_config": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
        | {"num_attention_heads": 2, "image_size": 28, "patch_size": 14},
    },
    "gpt2": _GPT,
    "gpt_bigcode": _GPT,
    "gptj": _GPT | {"rotary_dim": 8},
    "gpt_neo": {"hidden_size": 32, "intermediate_size": 56, "num_layers": 2, "num_heads": 4, "vocab_size": 96}
    | {"attention_types": [[["global", "local"], 1]], "max_position_embeddings": 128},
    "opt": _COMMON | {"ffn_dim": 56, "word_embed_proj_dim": 32},
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 4, "vocab_size": 96},
    "falcon": {"hidden_size": 32, "ffn_hidden_size": 56, "num_hidden_layers": 3, "num_attention_heads": 4}
    | {"vocab_size": 96, "bos_token_id": 1, "eos_token_id": 2},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 3, "expansion_ratio": 4, "vocab_size": 96, "max_seq_len": 128},
}

_ROUTED = _COMMON | {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
_SHARED = _ROUTED | {"n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1}
_SHARED |= {"n_group": 1, "topk_group": 1}
_LATENT = {key: value for key, value in _SHARED.items() if key != "head_dim"}
_LATENT |= {"num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_nope_head_dim": 8}
_LATENT |= {"qk_rope_head_dim": 8, "v_head_dim": 8}

MIXTURES: dict[str, dict[str, Any]] = {
    "mixtral": _ROUTED | {"num_local_experts": 4},
    "phimoe": _ROUTED | {"num_local_experts": 4},
    "granitemoe": _ROUTED | {"num_local_experts": 4},
    "gpt_oss": _ROUTED | {"num_local_experts": 4},
    "olmoe": _ROUTED | {"num_experts": 4},
    "qwen3_moe": _ROUTED | {"num_experts": 4, "mlp_only_layers": [0]},
    "qwen2_moe": _ROUTED | {"num_experts": 4, "mlp_only_layers": [0], "shared_expert_intermediate_size": 40},
    "qwen3_next": DENSE["qwen3_5_text"]
    | _ROUTED
    | {"num_experts": 4, "mlp_only_layers": [0]}
    | {"shared_expert_intermediate_size": 40, "num_hidden_layers": 4},
    "deepseek_v2": _LATENT | {"topk_method": "greedy"},
    "deepseek_v3": _LATENT,
    "glm4_moe": _SHARED,
    "ernie4_5_moe": _ROUTED
    | {"moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1}
    | {"moe_layer_start_index": 1},
    "hunyuan_v1_moe": _ROUTED | {"num_experts": 4, "moe_topk": 2},
    "llama4_text": _ROUTED
    | {"num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 40}
    | {"interleave_moe_layer_step": 2},
}


def tiny_model(model_type: str, **changes: Any) -> PreTrainedModel:
    """A random model; the same one every time."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **((DENSE | MIXTURES)[model_type] | changes))
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def some_tokens(batch: int = 2, length: int = 9) -> torch.Tensor:
    """``[batch, length]`` token ids."""
    return torch.randint(3, 96, (batch, length), generator=torch.Generator().manual_seed(1))
