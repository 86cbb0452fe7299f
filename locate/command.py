"""The ``locate`` command, as ``cvoice locate`` and as ``python -m locate``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table

from cvoice_foundation.errors import CVoiceError

if TYPE_CHECKING:
    from intervention.mask import NeuronMask
    from locate.select import SelectOptions

Out = Annotated[Path, typer.Option(help="Folder for the results; made if it is not there.")]
MethodName = Annotated[
    str, typer.Option(help="vape, vape-stance, contrast, contrast-frequency, attribution or random.")
]
TopRate = Annotated[
    float,
    typer.Option(help="Share of all neurons to keep: in all (vape: lowest entropy), or a value (others)."),
]
FilterRate = Annotated[
    float, typer.Option(help="vape: quantile of all firing rates that a neuron must exceed somewhere.")
]
BarRate = Annotated[
    float, typer.Option(help="vape: quantile of all firing rates above which a neuron belongs to a value.")
]
SignName = Annotated[
    str, typer.Option(help="contrast and attribution: positive (for the aligned act), negative or both.")
]
MaxValues = Annotated[int | None, typer.Option(help="Drop neurons selected for more values than this.")]
LanguageBar = Annotated[
    float | None,
    typer.Option(help="Drop neurons whose firing is of one language by more than this share, say 0.8."),
]
Seed = Annotated[int, typer.Option(help="Of what is drawn at random.")]


def locate(
    model: Annotated[str, typer.Option(help="Name or path of a model, or 'organism' for the bundled one.")],
    out: Out,
    data: Annotated[list[Path] | None, typer.Option(help="Items file; may be given several times.")] = None,
    language: Annotated[str, typer.Option(help="zh, en or both (pooled).")] = "both",
    method: MethodName = "vape",
    top_rate: TopRate = 0.01,
    filter_rate: FilterRate = 0.95,
    bar_rate: BarRate = 0.95,
    sign: SignName = "positive",
    max_values: MaxValues = None,
    language_bar: LanguageBar = None,
    seed: Seed = 0,
    stance: Annotated[str, typer.Option(help="Acts to read: both, aligned or violating.")] = "both",
    tokens: Annotated[
        str, typer.Option(help="Parts whose tokens count, of: story,action,rationale,template.")
    ] = "story,action,rationale",
    apply_chat_template: Annotated[
        bool, typer.Option("--apply-chat-template", help="Story as the user's turn, act as the assistant's.")
    ] = False,
    moments: Annotated[
        bool, typer.Option(help="Add up activations, for mean ablation and contrast; or firing alone.")
    ] = True,
    folds: Annotated[int, typer.Option(min=2, help="Folds that pairs are dealt into; fewer take less memory.")] = 8,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts a batch; halved when memory runs out.")] = 8,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; the GPU if there is one.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Branch or commit of the model.")] = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run the model's own code.")] = False,
    shard: Annotated[str | None, typer.Option(help="i/n: read part i (from 0) of n; `cvoice select` joins.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from an unfinished pass in --out.")] = False,
    checkpoint_every: Annotated[
        float, typer.Option(min=0, help="Seconds between two writings of an unfinished pass.")
    ] = 300,
    report: Annotated[
        bool, typer.Option("--report", help="Also write report.html: null, stability, sweep and overlaps.")
    ] = False,
) -> None:
    """Find the neurons that carry each value: one mask a value.

    Runs the model once over the bundled activation items (or --data) and selects neurons, by default by the entropy of
    their firing rates over the values (VAPE). Writes VALUE.jsonl, statistics.safetensors and locate.json. `cvoice
    select` tries other settings on the statistics without the model. Runs under torchrun too.

    Example:  cvoice locate --model organism --out masks
    """
    options = select_options(
        method, top_rate, filter_rate, bar_rate, sign=sign, max_values=max_values, language_bar=language_bar, seed=seed
    )
    # torch and transformers take seconds to import, and `--help` needs neither.
    from locate.corpus import STANCES
    from locate.record import PassOptions
    from locate.run import STATISTICS, locate_masks
    from locate.segments import check_parts

    if stance not in (*STANCES, "both"):
        raise CVoiceError(f"--stance is {stance!r}, and should be both, {' or '.join(STANCES)}")
    masks = locate_masks(
        model,
        out,
        data=data or (),
        language=cast(Any, language),  # checked where it is used
        stances=STANCES if stance == "both" else cast(Any, (stance,)),
        options=options,
        reading=PassOptions(
            batch_size,
            check_parts(part.strip() for part in tokens.split(",") if part.strip()),
            apply_chat_template,
            folds,
            moments,
            _shard(shard),
        ),
        device=device,
        dtype=dtype,
        revision=revision,
        trust_remote_code=trust_remote_code,
        resume=resume,
        checkpoint_every=checkpoint_every,
    )
    if masks:
        show_masks(masks, out)
    if masks and report:
        from locate.report import write_report

        Console().print(f"report: {write_report(out / STATISTICS, options, out, seed=seed)}")


def select_options(
    method: str,
    top_rate: float,
    filter_rate: float,
    bar_rate: float,
    *,
    denominator: str = "tokens",
    sign: str = "positive",
    max_values: int | None = None,
    language_bar: float | None = None,
    seed: int = 0,
) -> SelectOptions:
    """Options as a command line gives them, checked.

    Raises:
        CVoiceError: One is not known or out of range.
    """
    from locate.select import SelectOptions
    from locate.vape import VapeOptions

    vape = VapeOptions(top_rate, filter_rate, bar_rate, cast(Any, denominator))
    return SelectOptions(cast(Any, method), vape, cast(Any, sign), max_values, language_bar, seed)


def _shard(text: str | None) -> tuple[int, int]:
    if text is None:
        return 0, 1
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise CVoiceError(f"--shard is {text!r}, and should be i/n with i from 0 to n - 1, say 0/4")
    return int(match[1]), int(match[2])


def show_masks(masks: Sequence[NeuronMask], out: Path) -> None:
    """Prints what was selected, a line a mask, and where it lies."""
    table = Table("mask", "neurons", "in layers", "sha256", title=f"masks in {out}")
    for mask in masks:
        indices = sorted({layer.layer for layer in mask.layers})
        layers = f"{len(indices)} ({indices[0]}-{indices[-1]})" if indices else "-"
        table.add_row(f"{mask.value}.jsonl", str(mask.num_masked), layers, mask.sha256[:12])
    Console().print(table)
