"""One pass of a model over a corpus: activations in, statistics out.

Nothing is kept of a text but its counts, so memory does not grow with the corpus; neither the language-model head nor
anything behind the last neurons is run; the device is never waited for inside the loop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import nn

from cvoice_foundation.errors import CVoiceError
from intervention.neurons import base_model, find_neurons
from intervention.observe import observe
from locate.accumulate import CellSums, EnoughError, TextSums
from locate.corpus import NUM_FOLDS, Group, Text, Tokens, corpus_sha256, padded, plan, tokenize
from locate.counts import Site
from locate.segments import COUNTED, PARTS, Part
from locate.statistics import NeuronStatistics
from locate.statistics_file import load_statistics, save_statistics

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PassOptions:
    """How a pass is run.

    Attributes:
        batch_size: Texts a forward pass.
        parts: The parts of a text whose tokens count.
        chat: Whether to apply the tokenizer's chat template.
        folds: Into how many folds pairs are dealt.
        moments: Whether to add up activations and their squares; else firing alone.
        shard: ``(i, n)``: read every n-th group of the plan, from the i-th on.
    """

    batch_size: int = 8
    parts: tuple[Part, ...] = COUNTED
    chat: bool = False
    folds: int = NUM_FOLDS
    moments: bool = True
    shard: tuple[int, int] = (0, 1)

    def settings(self) -> dict[str, Any]:
        """What two recordings must share to be added up."""
        chosen = asdict(self)
        del chosen["shard"], chosen["batch_size"]
        return chosen | {"parts": list(self.parts)}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where an unfinished pass is kept.

    Attributes:
        path: The file; gone once the pass is finished.
        resume: Whether to go on from it.
        every: Seconds between two writings; each costs the writing of all sums.
    """

    path: Path
    resume: bool = False
    every: float = 300.0


@torch.no_grad()
def record(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[Text],
    options: PassOptions | None = None,
    *,
    header: Mapping[str, Any] | None = None,
    checkpoint: Checkpoint | None = None,
    progress: bool = True,
) -> NeuronStatistics:
    """Runs a model over a corpus once and adds up what its neurons do on each cell.

    Args:
        model: A transformers decoder with a head; the head is not run.
        tokenizer: Its tokenizer, a fast one.
        texts: The corpus.
        options: How; the defaults if None.
        header: What to note in the statistics beside the corpus.
        checkpoint: Where to keep an unfinished pass; nowhere if None.
        progress: Whether to show a progress bar.

    Returns:
        Counts exact in int32; sums in float64 over float32 sums of a text.

    Raises:
        CVoiceError: The corpus is empty, the architecture is not known, activations are not finite, or the
            checkpoint is of another pass.
    """
    options = options or PassOptions()
    if not texts:
        raise CVoiceError("the corpus is empty; give items with --data FILE, or leave it out for the bundled ones")
    whole = base_model(model)
    sites = tuple(Site(n.layer, n.expert, n.width) for n in find_neurons(model))
    max_length = int(getattr(whole.config, "max_position_embeddings", None) or 1 << 30)
    tokens = tokenize(texts, tokenizer, chat=options.chat, max_length=max_length)
    groups = plan(texts, tokens, options.batch_size)[options.shard[0] :: options.shard[1]]
    counted_codes = torch.tensor([PARTS.index(part) for part in options.parts], dtype=torch.int8)

    sums = CellSums(texts, sites, options.folds, options.moments)
    header = _header(texts, tokens, counted_codes, options, header)
    earlier, done = _resumed(checkpoint, header, options.batch_size)
    sums.start(_home(whole, sums.bytes_needed), earlier)
    # accelerate's offloading hooks must see the end of every module's call.
    text_sums = TextSums(sites, options.moments, stop_early=not hasattr(whole, "hf_device_map"))
    reader = _Reader(whole, text_sums, counted_codes)
    written = time.monotonic()
    with observe(model, text_sums):
        for number in track(range(done, len(groups)), description="Locating", disable=not progress):
            group = groups[number]
            counts = torch.cat([reader.read([tokens[row] for row in rows]) for rows in _batches(group)])
            sums.add(group.rows, group.units, counts, text_sums.take())
            if checkpoint and time.monotonic() - written >= checkpoint.every and number + 1 < len(groups):
                so_far = {"groups_done": number + 1, "batch_size": options.batch_size}
                save_statistics(sums.statistics(header), checkpoint.path, **so_far)
                written = time.monotonic()
    statistics = sums.statistics(header)
    _check_finite(statistics)
    return statistics


class _Reader:
    """Runs batches; answers a device that is out of memory by halving them."""

    def __init__(self, model: nn.Module, sums: TextSums, counted_codes: torch.Tensor) -> None:
        self._decoder: Any = getattr(model, str(getattr(model, "base_model_prefix", "")), model)
        self._device = next(model.parameters()).device
        self._sums = sums
        self._counted_codes = counted_codes
        self._most: int | None = None

    def read(self, rows: Sequence[Tokens]) -> torch.Tensor:
        """Reads texts; returns ``[rows, scopes]``, int64: tokens counted."""
        if self._most is not None and len(rows) > self._most:
            size = self._most  # which may shrink on the way
            return torch.cat([self.read(rows[at : at + size]) for at in range(0, len(rows), size)])
        ids, attention, codes = padded(rows)
        counted = torch.stack(
            [torch.isin(codes, self._counted_codes), codes == PARTS.index("action")], dim=1
        )  # [batch, scopes, seq]
        self._sums.begin(counted)
        out_of_memory = False
        try:
            self._decoder(input_ids=ids.to(self._device), attention_mask=attention.to(self._device), use_cache=False)
        except EnoughError:
            pass
        except torch.OutOfMemoryError:
            out_of_memory = True  # tried again outside: the traceback holds on to memory
        if out_of_memory:
            self._halve(rows)
            return self.read(rows)
        self._sums.end()
        return counted.sum(-1)

    def _halve(self, rows: Sequence[Tokens]) -> None:
        if len(rows) == 1:
            raise CVoiceError(
                f"out of memory on one text of {len(rows[0])} tokens; use a smaller --dtype or another --device"
            )
        self._most = len(rows) // 2
        _LOG.warning("out of memory with %d texts a batch; going on with %d", len(rows), self._most)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _batches(group: Group) -> Iterator[Sequence[int]]:
    for start, end in group.batches:
        yield group.rows[start:end]


def _header(
    texts: Sequence[Text],
    tokens: Sequence[Tokens],
    counted_codes: torch.Tensor,
    options: PassOptions,
    header: Mapping[str, Any] | None,
) -> dict[str, Any]:
    counted = sum(int(torch.isin(torch.tensor(t.codes, dtype=torch.int8), counted_codes).sum()) for t in tokens)
    result: dict[str, Any] = {
        **(header or {}),
        "settings": options.settings(),
        "corpus": {
            "sha256": corpus_sha256(texts),
            "tokens": counted,
            "texts": len(texts),
            "values": list(dict.fromkeys(text.value for text in texts)),
        },
    }
    shard, of = options.shard
    if of > 1:
        result["shard"] = {"of": of, "have": [shard], "batch_size": options.batch_size}
    return result


def _resumed(
    checkpoint: Checkpoint | None, header: Mapping[str, Any], batch_size: int
) -> tuple[NeuronStatistics | None, int]:
    """An unfinished pass, and how many of its groups are done."""
    if checkpoint is None or not checkpoint.resume or not checkpoint.path.exists():
        return None, 0
    earlier = load_statistics(checkpoint.path)
    done = int(earlier.header.get("groups_done", 0))
    if dict(earlier.header) != {**header, "groups_done": done, "batch_size": batch_size}:
        raise CVoiceError(
            f"{checkpoint.path}: left by a pass with another model, corpus, batch size or other settings; repeat its "
            "command, or leave out --resume to begin anew"
        )
    return earlier, done


def _home(model: nn.Module, needed: int) -> torch.device:
    """Where the running sums lie: with the model if they leave most of its memory free, else in main memory."""
    if needed > 8 << 30:
        _LOG.warning("the sums take %.0f GB; fewer --folds or --no-moments take less", needed / (1 << 30))
    device = next(model.parameters()).device
    if device.type == "cuda" and needed < torch.cuda.mem_get_info(device)[0] // 4:
        return device
    return torch.device("cpu")


def _check_finite(statistics: NeuronStatistics) -> None:
    if statistics.total is None:
        return
    finite = torch.isfinite(statistics.total).all(0).all(0)
    if not bool(finite.all()):
        place = int((~finite).nonzero()[0])
        for site in statistics.sites:
            if place < site.width:
                raise CVoiceError(
                    f"activations of layer {site.layer} are not finite; try another --dtype (bfloat16 or float32)"
                )
            place -= site.width
