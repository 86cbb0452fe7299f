"""What locating costs: counting against the bare decoder and the plain forward pass, in one interleaved run.

    python benchmarks/locating.py --json benchmarks/locating.json

Every round runs each way once, in an order drawn anew, so that a busy machine slows all alike; ratios are taken within
rounds. Their median stands in the table, with a 95 % interval (bootstrap over rounds).
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import platform
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from cvoice_foundation.files import write_whole
from intervention.neurons import find_neurons
from intervention.observe import observe
from locate.accumulate import EnoughError, TextSums
from locate.counts import Site

SHAPES: dict[str, dict[str, int]] = {
    # 78M parameters; a GPT-2-sized vocabulary, so that the head has its usual share.
    "small": {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "vocab_size": 50_000}
    | {"num_attention_heads": 8, "num_key_value_heads": 4},
    # Qwen2.5-7B.
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "vocab_size": 152_064}
    | {"num_attention_heads": 28, "num_key_value_heads": 4},
}


def make_model(shape: str, device: str, dtype: torch.dtype) -> Any:
    """A random model of a shape."""
    torch.manual_seed(0)
    config = Qwen2Config(**SHAPES[shape], tie_word_embeddings=False, max_position_embeddings=4096)
    with torch.device(device):
        torch.set_default_dtype(dtype)
        model = Qwen2ForCausalLM(config).eval()
        torch.set_default_dtype(torch.float32)
    return model


def make_ways(model: Any, ids: torch.Tensor) -> dict[str, Callable[[], None]]:
    """The ways of reading one batch."""
    sites = [Site(n.layer, n.expert, n.width) for n in find_neurons(model)]
    attention = torch.ones_like(ids)
    counted = torch.ones(len(ids), 2, ids.shape[1], dtype=torch.bool)
    counted[:, 1, : -ids.shape[1] // 5] = False  # the act's own tokens come last

    def full() -> None:
        model(input_ids=ids, attention_mask=attention, use_cache=False)

    def bare() -> None:
        model.model(input_ids=ids, attention_mask=attention, use_cache=False)

    def counting(moments: bool) -> Callable[[], None]:
        sums = TextSums(sites, moments, stop_early=True)

        def run() -> None:
            with observe(model, sums):
                sums.begin(counted)
                try:
                    model.model(input_ids=ids, attention_mask=attention, use_cache=False)
                except EnoughError:
                    sums.end()
            sums.take()

        return run

    def plain_hooks() -> None:
        """What a script would do: a hook a layer, firing and sums over all tokens together, no classes."""
        found: list[torch.Tensor] = []
        handles = [
            layer.mlp.act_fn.register_forward_hook(lambda _m, _a, out: found.append((out > 0).sum((0, 1))))
            for layer in model.model.layers
        ]
        full()
        for handle in handles:
            handle.remove()

    ways = {
        "full forward": full,
        "bare decoder": bare,
        "counted, firing alone": counting(False),
        "counted, with moments": counting(True),
        "plain hook script": plain_hooks,
    }
    return ways | peers(model, ids)


def peers(model: Any, ids: torch.Tensor) -> dict[str, Callable[[], None]]:
    """Other libraries doing the plain hook script's counts, where they are installed."""
    found: dict[str, Callable[[], None]] = {}
    try:
        from nnsight import NNsight
    except ImportError:
        pass
    else:
        wrapped = NNsight(model)

        def nnsight() -> None:
            fired = []
            with wrapped.trace(input_ids=ids):
                for layer in wrapped.model.layers:
                    fired.append((layer.mlp.act_fn.output > 0).sum((0, 1)).save())

        found["nnsight"] = nnsight
    try:
        from transformer_lens.model_bridge import TransformerBridge
    except ImportError:
        pass
    else:
        with tempfile.TemporaryDirectory() as folder:
            model.config.architectures = [type(model).__name__]
            model.config.save_pretrained(folder)
            # A copy: the bridge changes the model's attention to its own.
            tiny_tokenizer().save_pretrained(folder)
            bridge = TransformerBridge.boot_transformers(
                folder, hf_model=copy.deepcopy(model), tokenizer=PreTrainedTokenizerFast.from_pretrained(folder)
            )

        def transformer_lens() -> None:
            _, cache = bridge.run_with_cache(ids, names_filter=lambda name: name.endswith("mlp.gate.hook_out"))
            for gate in cache.values():
                (gate > 0).sum((0, 1))

        found["TransformerLens run_with_cache"] = transformer_lens
    return found


def tiny_tokenizer() -> Any:
    """A tokenizer for what asks for one and does not use it."""
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))  # noqa: S106 - no password
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token="<unk>", pad_token="<unk>")  # noqa: S106


def interleaved(ways: dict[str, Callable[[], None]], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of each way in each round."""
    order = random.Random(0)  # noqa: S311 - an order is no secret
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with torch.no_grad():
        for number in track(range(rounds + 2), description="Rounds"):
            names = list(ways)
            order.shuffle(names)
            for name in names:
                if device != "cpu":
                    torch.cuda.synchronize()
                start = time.perf_counter()
                ways[name]()
                if device != "cpu":
                    torch.cuda.synchronize()
                if number >= 2:  # the first two warm up
                    seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(first: list[float], second: list[float], draws: int = 2000) -> tuple[float, float, float]:
    """Median of the rounds' ratios, and its 95 % bootstrap interval."""
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    generator = random.Random(1)  # noqa: S311
    medians = sorted(statistics.median(generator.choices(ratios, k=len(ratios))) for _ in range(draws))
    return statistics.median(ratios), medians[int(0.025 * draws)], medians[int(0.975 * draws)]


def memory_growth(model: Any, tokenizer: Any, texts: int) -> dict[str, float]:
    """Highest resident memory above the model's, in MB, of a pass over a corpus and over one 100 times as long."""
    from locate.corpus import Text
    from locate.record import PassOptions, record

    process, words = psutil.Process(), random.Random(2)  # noqa: S311

    def corpus(size: int) -> list[Text]:
        def some(count: int) -> str:
            return " ".join(f"w{words.randrange(92)}" for _ in range(count))

        return [
            Text(
                "integrity" if n % 2 else "freedom",
                "en",
                "aligned" if n % 4 < 2 else "violating",
                f"x-{n // 8}",
                some(40),
                some(8),
            )
            for n in range(size)
        ]

    found = {}
    for label, size in (("1x", texts), ("100x", 100 * texts)):
        made = corpus(size)
        gc.collect()
        before, peak, done = process.memory_info().rss, [0], threading.Event()

        def watch(peak: list[int] = peak, done: threading.Event = done) -> None:
            while not done.wait(0.01):
                peak[0] = max(peak[0], process.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        record(model, tokenizer, made, PassOptions(batch_size=16), progress=False)
        done.set()
        watcher.join()
        found[label] = (peak[0] - before) / 1e6
    return found


def main() -> None:
    """Measures, prints a table, and writes JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=160, help="a text")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    model = make_model(chosen.shape, chosen.device, getattr(torch, chosen.dtype))
    vocabulary = SHAPES[chosen.shape]["vocab_size"]
    ids = torch.randint(0, vocabulary, (chosen.batch, chosen.tokens)).to(chosen.device)
    seconds = interleaved(make_ways(model, ids), chosen.rounds, chosen.device)
    bare, full = "bare decoder", "full forward"
    wanted = [(bare, full), ("counted, firing alone", bare), ("counted, with moments", bare)]
    wanted += [("counted, firing alone", full), ("counted, with moments", full)]
    wanted += [
        (name, full) for name in seconds if name in ("plain hook script", "nnsight", "TransformerLens run_with_cache")
    ]
    ratios = {f"{a} / {b}": ratio(seconds[a], seconds[b]) for a, b in wanted}
    table = Table(
        "ratio", "median", "95 % interval", title=f"{sum(p.numel() for p in model.parameters()) / 1e6:.0f}M parameters"
    )
    for name, (median, low, high) in ratios.items():
        table.add_row(name, f"{median:.2f}", f"{low:.2f}-{high:.2f}")
    Console().print(table)
    per_second = chosen.batch * chosen.tokens / statistics.median(seconds["counted, with moments"])
    print(f"{per_second:.0f} tokens a second, counted with moments")
    result: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "shape": SHAPES[chosen.shape],
        "batch": chosen.batch,
        "tokens": chosen.tokens,
        "rounds": chosen.rounds,
        "dtype": chosen.dtype,
        "machine": f"{platform.machine()} {chosen.device}, {chosen.threads} threads",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "ratios": {name: dict(zip(("median", "low", "high"), found, strict=True)) for name, found in ratios.items()},
        "tokens_per_second": per_second,
    }
    if chosen.device == "cpu" and chosen.shape == "small":
        sys.path.insert(0, str(Path(__file__).parents[1]))
        from tests.locate.corpora import loaded

        with tempfile.TemporaryDirectory() as folder:
            result["memory_mb"] = memory_growth(*loaded(Path(folder)), texts=64)
        print(f"memory above the model's: {result['memory_mb']}")
    if chosen.json:
        write_whole(chosen.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
