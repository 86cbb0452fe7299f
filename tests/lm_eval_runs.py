"""Running lm-eval inside tests: our tasks alone, and a tiny model on disk with a tokenizer of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from cvoice_tasks.yaml import FOLDER
from tests.tiny_models import DENSE

_TEXT = [
    "In the morning she opens the shop. Answer with one letter only.\nAnswer: A B",
    "如果你是她，你会怎么做？\n答案： A B",
]


def save_tiny_model(folder: Path, model_type: str = "qwen2", **changes: Any) -> str:
    """A tiny random model with a byte-level tokenizer; returns its path."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_TEXT * 2, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>").save_pretrained(
        folder
    )
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 320,
        "max_position_embeddings": 2048,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "bos_token_id": None,
    }
    sizes |= {"initializer_range": 0.3} | changes
    parts = DENSE[model_type]
    # A multimodal wrapper keeps the sizes of its language tower one level down.
    if "text_config" in parts:
        parts = parts | {"text_config": parts["text_config"] | sizes}
    config = AutoConfig.for_model(model_type, **(parts | sizes))
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


def evaluate(model: Any, tasks: list[str], model_args: Any = None, **arguments: Any) -> dict[str, Any]:
    """``simple_evaluate`` with our task folder alone, which loads in a fraction of the time of all tasks."""
    manager = TaskManager(include_path=str(FOLDER), include_defaults=False, metadata=arguments.pop("metadata", None))
    results = simple_evaluate(
        model=model,
        model_args=model_args,
        tasks=tasks,
        task_manager=manager,
        bootstrap_iters=0,
        device="cpu",
        **arguments,
    )
    assert results is not None
    return dict(results)
