"""What masking costs: lm-eval's scoring with a mask against plain ``hf``, and peers that do the same zeroing.

    python benchmarks/masking.py --json benchmarks/masking.json

A random model of 98M parameters scores the same requests in every way, each way once a round in an order drawn anew,
so that a busy machine slows all alike. The ratio to plain ``hf`` is taken within rounds; its median stands in the
table, with a 95 % interval (bootstrap over rounds). ``hf`` again, a second copy of the same model, shows the noise.
Peers are left out where they are not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.hf_steered import SteeredModel
from lm_eval.models.huggingface import HFLM
from locating import SHAPES, interleaved, make_model, ratio, tiny_tokenizer
from rich.console import Console
from rich.table import Table

from cvoice_foundation.files import write_whole
from intervention.ablation import ablate
from intervention.mask import MaskedLayer, ModelIdentity, NeuronMask
from intervention.neuron_mask_lm import NeuronMaskedHFLM

NEURONS_A_LAYER = 20
Request = tuple[tuple[str, str], list[int], list[int]]


def discard(_: object) -> None:
    """Forgets a result."""


def save_mask(path: Path, layers: int, width: int) -> list[list[int]]:
    """A random mask of 20 neurons a layer, with means; returns the neurons."""
    generator = torch.Generator().manual_seed(1)
    chosen = [sorted(torch.randperm(width, generator=generator)[:NEURONS_A_LAYER].tolist()) for _ in range(layers)]
    lines = tuple(MaskedLayer(n, tuple(c), tuple(0.01 * i for i in range(len(c)))) for n, c in enumerate(chosen))
    NeuronMask("benchmark", ModelIdentity(None, None, None, layers, width), lines).save(path)
    return chosen


def make_requests(vocabulary: int, count: int, tokens: int) -> list[Request]:
    """Contexts of random tokens with a continuation of one token."""
    generator = torch.Generator().manual_seed(2)
    rows = torch.randint(0, vocabulary, (count, tokens + 1), generator=generator).tolist()
    return [((str(n), ""), row[:-1], row[-1:]) for n, row in enumerate(rows)]


def make_ways(
    folder: Path, requests: list[Request], batch: int, device: str, dtype: str
) -> dict[str, Callable[[], None]]:
    """Every way of scoring the requests."""
    settings: dict[str, Any] = {"batch_size": batch, "device": device, "dtype": dtype}
    model, mask = str(folder / "model"), str(folder / "mask.jsonl")
    masked: dict[str, dict[str, Any]] = {
        "zero (folded)": {},
        "scale by 2 (folded)": {"mode": "scale", "strength": 2},
        "scale by 1.7 (hooked)": {"mode": "scale", "strength": 1.7},
        "mean (hooked)": {"mode": "mean"},
        "add (hooked)": {"mode": "add"},
    }
    models: dict[str, HFLM] = {name: HFLM(pretrained=model, **settings) for name in ("hf", "hf again")}
    for name, mode in masked.items():
        models[f"neuron_masked_hf, {name}"] = NeuronMaskedHFLM(mask=mask, pretrained=model, **mode, **settings)
    models["lm-eval's steered, one neuron a layer"] = SteeredModel(model, str(folder / "steer.pt"), **settings)

    def scoring(lm: HFLM) -> Callable[[], None]:
        return lambda: discard(lm._loglikelihood_tokens(requests, disable_tqdm=True))

    return {name: scoring(lm) for name, lm in models.items()}


def check_peers(model: Any, mask: Path, ids: torch.Tensor, found: dict[str, Callable[[], Any]]) -> None:
    """Refuses to time a peer that does not do what the mask does."""
    with torch.no_grad():
        plain = model(ids).logits
        with ablate(model, NeuronMask.load(mask)):
            masked = model(ids).logits
        moved = float((masked - plain).abs().max())
        for name, way in found.items():
            off = float((way() - masked).abs().max()) if name != "plain forward" else 0.0
            print(f"{name}: logits differ from the mask's by at most {off:.1e} (the mask moves them by {moved:.1e})")
            assert off < 1e-2 * moved, f"{name} does something else"


def make_peers(model: Any, neurons: list[list[int]], ids: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Forward passes with the same neurons set to zero; ``plain forward`` is what they are compared with."""
    found: dict[str, Callable[[], Any]] = {"plain forward": lambda: model(ids).logits}
    try:
        from nnsight import NNsight
    except ImportError:
        pass
    else:
        wrapped = NNsight(model)

        def nnsight() -> torch.Tensor:
            with wrapped.trace(input_ids=ids):
                for layer, chosen in zip(wrapped.model.layers, neurons, strict=True):
                    layer.mlp.act_fn.output[..., chosen] = 0
                logits = wrapped.lm_head.output.save()
            return logits  # type: ignore[no-any-return,unused-ignore] # noqa: RET504 - its value comes behind the trace

        found["nnsight"] = nnsight
    try:
        from transformer_lens.model_bridge import TransformerBridge
    except ImportError:
        pass
    else:
        import copy

        from transformers import PreTrainedTokenizerFast

        with tempfile.TemporaryDirectory() as folder:
            model.config.architectures = [type(model).__name__]
            model.config.save_pretrained(folder)
            tiny_tokenizer().save_pretrained(folder)
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
            bridge = TransformerBridge.boot_transformers(folder, hf_model=copy.deepcopy(model), tokenizer=tokenizer)

        def zeroing(chosen: list[int]) -> Callable[..., torch.Tensor]:
            def hook(activations: torch.Tensor, **_: Any) -> torch.Tensor:
                activations[..., chosen] = 0
                return activations

            return hook

        hooks = [(f"blocks.{layer}.mlp.hook_post", zeroing(chosen)) for layer, chosen in enumerate(neurons)]
        found["TransformerLens run_with_hooks"] = lambda: bridge.run_with_hooks(ids, fwd_hooks=hooks)
    return found


def _installed() -> list[str]:
    return [name for name in ("nnsight", "transformer-lens") if importlib.util.find_spec(name.replace("-", "_"))]


def main() -> None:
    """Measures, prints a table, and writes JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=160, help="a request")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    shape = SHAPES[chosen.shape]
    model = make_model(chosen.shape, "cpu", torch.float32)
    parameters = sum(p.numel() for p in model.parameters())
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        model.config.architectures = [type(model).__name__]
        model.save_pretrained(folder / "model")
        tiny_tokenizer().save_pretrained(folder / "model")
        neurons = save_mask(folder / "mask.jsonl", shape["num_hidden_layers"], shape["intermediate_size"])
        steer = {
            f"layers.{layer}.mlp.act_fn": {
                "steering_vector": torch.nn.functional.one_hot(torch.tensor(of[0]), shape["intermediate_size"]).float(),
                "steering_coefficient": 0.0,
                "action": "clamp",
            }
            for layer, of in enumerate(neurons)
        }
        torch.save(steer, folder / "steer.pt")
        requests = make_requests(shape["vocab_size"], chosen.batch, chosen.tokens)
        ways = make_ways(folder, requests, chosen.batch, chosen.device, chosen.dtype)
        ids = torch.tensor([context for _, context, _ in requests]).to(chosen.device)
        peers = make_peers(model.to(chosen.device, getattr(torch, chosen.dtype)), neurons, ids)
        check_peers(model, folder / "mask.jsonl", ids, peers)
        seconds = interleaved(ways | peers, chosen.rounds, chosen.device)
    ratios = {f"{name} / hf": ratio(seconds[name], seconds["hf"]) for name in ways if name != "hf"}
    plain = "plain forward"
    ratios |= {f"{name} / {plain}": ratio(seconds[name], seconds[plain]) for name in peers if name != plain}
    table = Table("ratio", "median", "95 % interval", title=f"{parameters / 1e6:.0f}M parameters")
    for name, (median, low, high) in ratios.items():
        table.add_row(name, f"{median:.3f}", f"{low:.3f}-{high:.3f}")
    Console().print(table)
    if chosen.json:
        result = {
            "parameters": parameters,
            "neurons": f"{NEURONS_A_LAYER} a layer, of {shape['intermediate_size']}",
            "requests": f"{chosen.batch} of {chosen.tokens} tokens, one batch",
            "rounds": chosen.rounds,
            "dtype": chosen.dtype,
            "machine": f"{platform.machine()} {chosen.device}, {chosen.threads} threads",
            "versions": {name: version(name) for name in ("torch", "transformers", "lm-eval", *_installed())},
            "seconds_of_hf": statistics.median(seconds["hf"]),
            "ratios": {
                name: dict(zip(("median", "low", "high"), found, strict=True)) for name, found in ratios.items()
            },
        }
        write_whole(chosen.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
