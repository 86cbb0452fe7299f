"""Statistics to masks: a method scores or tests every neuron, and what is dropped and kept is decided alike for all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch

from cvoice_foundation.errors import CVoiceError, suggestion
from intervention.mask import MaskedLayer, ModelIdentity, NeuronMask
from locate.contrast import attribution, contrast, contrast_frequency
from locate.counts import ClassCounts, Site
from locate.statistics import NeuronStatistics
from locate.vape import VapeOptions, vape

Method = Literal["vape", "vape-stance", "contrast", "contrast-frequency", "attribution", "random"]
METHODS: tuple[Method, ...] = get_args(Method)
Sign = Literal["positive", "negative", "both"]
SIGNS: tuple[Sign, ...] = get_args(Sign)

_Scores = Callable[[NeuronStatistics, Collection[int] | None, Collection[str] | None], torch.Tensor]
_SCORES: Mapping[str, _Scores] = {
    "contrast": contrast,
    "contrast-frequency": contrast_frequency,
    "attribution": attribution,
}
SCORED_METHODS = tuple(_SCORES)


@dataclass(frozen=True, slots=True)
class SelectOptions:
    """How neurons are selected.

    Attributes:
        method: ``vape``: fires on few values. ``vape-stance``: on few of 24 classes, value and stance. ``contrast``,
            ``contrast-frequency``: differs between aligned and violating acts. ``attribution``: moves the choice, to
            first order. ``random``: a floor to compare with.
        vape: Thresholds of the two by entropy; ``vape.top_rate`` is the share of all neurons to keep, for every method
            (by entropy over all classes together, else for each value).
        sign: Of a score: neurons that speak for the aligned act, against it, or both.
        max_values: Drop neurons selected for more values than this: generic, not of a value.
        language_bar: Drop neurons that a language carries: of the sum of the two languages' firing rates, one language
            has more than this share.
        seed: Of ``random``.

    Raises:
        CVoiceError: A setting is not known or out of range.
    """

    method: Method = "vape"
    vape: VapeOptions = field(default_factory=VapeOptions)
    sign: Sign = "positive"
    max_values: int | None = None
    language_bar: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise CVoiceError(f"--method is {self.method!r}{suggestion(self.method, METHODS)}")
        if self.sign not in SIGNS:
            raise CVoiceError(f"--sign is {self.sign!r}{suggestion(self.sign, SIGNS)}")
        if self.max_values is not None and self.max_values < 1:
            raise CVoiceError(f"--max-values is {self.max_values}, and should be at least 1")
        if self.language_bar is not None and not 0.5 <= self.language_bar <= 1:
            raise CVoiceError(f"--language-bar is {self.language_bar}, and should lie between 0.5 and 1")

    def to_json(self) -> dict[str, Any]:
        """The mask header's ``method`` object: the name, and the settings that it depends on."""
        chosen: dict[str, Any] = {"name": self.method}
        if self.method in ("vape", "vape-stance"):
            chosen |= self.vape.to_json()
        else:
            chosen |= {"top_rate": self.vape.top_rate}
            chosen |= {"seed": self.seed} if self.method == "random" else {"sign": self.sign}
        if self.max_values is not None:
            chosen["max_values"] = self.max_values
        if self.language_bar is not None:
            chosen["language_bar"] = self.language_bar
        return chosen


@dataclass(frozen=True)
class Selection:
    """Which neurons are whose.

    Attributes:
        classes: Names.
        sites: The neuron axis.
        selected: ``[classes, neurons]``, bool.
    """

    classes: tuple[str, ...]
    sites: tuple[Site, ...]
    selected: torch.Tensor


def select(
    statistics: NeuronStatistics,
    options: SelectOptions,
    *,
    folds: Collection[int] | None = None,
    languages: Collection[str] | None = None,
) -> Selection:
    """Selects neurons of each class.

    Args:
        statistics: What was recorded.
        options: The method and its settings.
        folds: Use these folds alone; None for all.
        languages: Use these languages alone; None for all.

    Raises:
        CVoiceError: The statistics lack what the method reads.
    """
    classes: tuple[str, ...] = statistics.values
    if options.method in ("vape", "vape-stance"):
        counts = statistics.counts(by_stance=options.method == "vape-stance", folds=folds, languages=languages)
        classes, selected = counts.classes, vape(counts, options.vape)
    elif options.method == "random":
        selected = _random(len(classes), statistics.num_neurons, options)
    else:
        scores = _SCORES[options.method](statistics, folds, languages)
        selected = highest(scores, options.vape.top_rate, options.sign)
    return Selection(classes, statistics.sites, _drop(selected, statistics, options, folds))


def select_counts(counts: ClassCounts, options: SelectOptions) -> Selection:
    """Selects neurons from a table of counts alone, as foreign files give it.

    Raises:
        CVoiceError: The method, or what is to be dropped, needs more than counts.
    """
    if options.method != "vape" or options.language_bar is not None:
        raise CVoiceError(f"count files hold firing by class alone, enough for --method vape, not for {options.method}")
    selected = _drop_generic(vape(counts, options.vape), options.max_values)
    return Selection(counts.classes, counts.sites, selected)


def highest(scores: torch.Tensor, top_rate: float, sign: Sign) -> torch.Tensor:
    """The ``round(n · top_rate)`` neurons of highest score for each class; ties break by layer, then index.

    Args:
        scores: ``[classes, neurons]``.
        top_rate: Share of all neurons.
        sign: ``positive``: of the scores above 0. ``negative``: of those below, lowest first. ``both``: by magnitude.

    Returns:
        ``[classes, neurons]``, bool; never a neuron whose score is 0.
    """
    ranked = {"positive": scores, "negative": -scores, "both": scores.abs()}[sign]
    places = ranked.sort(dim=1, descending=True, stable=True).indices[:, : round(scores.shape[1] * top_rate)]
    chosen = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, places, True)
    return chosen & (ranked > 0)


def _random(classes: int, neurons: int, options: SelectOptions) -> torch.Tensor:
    generator = torch.Generator().manual_seed(options.seed)
    chosen = torch.zeros(classes, neurons, dtype=torch.bool)
    for row in chosen:
        row[torch.randperm(neurons, generator=generator)[: round(neurons * options.vape.top_rate)]] = True
    return chosen


def _drop(
    selected: torch.Tensor, statistics: NeuronStatistics, options: SelectOptions, folds: Collection[int] | None
) -> torch.Tensor:
    if options.language_bar is not None:
        selected = selected & (language_share(statistics, folds) <= options.language_bar)
    return _drop_generic(selected, options.max_values)


def _drop_generic(selected: torch.Tensor, max_values: int | None) -> torch.Tensor:
    return selected if max_values is None else selected & (selected.sum(0) <= max_values)


def language_share(statistics: NeuronStatistics, folds: Collection[int] | None = None) -> torch.Tensor:
    """How much of a neuron's firing one language has: the larger of the two rates over their sum; 1/2 is even.

    Returns:
        ``[neurons]``, float64.

    Raises:
        CVoiceError: The statistics hold one language.
    """
    languages = sorted({cell.language for cell in statistics.cells})
    if len(languages) < 2:
        raise CVoiceError(f"--language-bar compares languages, and the statistics hold {languages[0]} alone")
    rates = []
    for language in languages:
        counts = statistics.counts(stance=None, languages=[language], folds=folds)
        rates.append(counts.fired.sum(0).double() / counts.tokens.sum())
    return (torch.stack(rates).amax(0) / torch.stack(rates).sum(0)).nan_to_num(0.5)


def masks_of(
    selection: Selection,
    *,
    header: Mapping[str, Any],
    method: Mapping[str, Any],
    created: Mapping[str, Any],
    means: torch.Tensor | None = None,
) -> list[NeuronMask]:
    """Selected neurons as masks, one a class.

    Args:
        selection: The neurons.
        header: Of the statistics: ``model``, ``corpus``, ``language``.
        method: For the mask headers.
        created: For the mask headers.
        means: ``[neurons]``: mean activations over the corpus, for mean ablation; None where not recorded.
    """
    model = _identity(selection.sites, header.get("model") or {})
    corpus = header.get("corpus")
    corpus = None if corpus is None else {key: corpus[key] for key in ("sha256", "tokens", "parts") if key in corpus}
    language = header.get("language")
    return [
        NeuronMask(value, model, tuple(_lines(selection.sites, row, means)), language, method, corpus, created)
        for value, row in zip(selection.classes, selection.selected, strict=True)
    ]


def _lines(sites: Sequence[Site], selected: torch.Tensor, means: torch.Tensor | None) -> list[MaskedLayer]:
    lines, start = [], 0
    for site in sites:
        neurons = selected[start : start + site.width].nonzero().flatten()
        if len(neurons):
            of_layer = None if means is None else tuple(means[start : start + site.width][neurons].tolist())
            lines.append(MaskedLayer(site.layer, tuple(neurons.tolist()), of_layer, site.expert))
        start += site.width
    return lines


def _identity(sites: Sequence[Site], model: Mapping[str, Any]) -> ModelIdentity:
    return ModelIdentity(
        name=model.get("name"),
        revision=model.get("revision"),
        architecture=model.get("architecture"),
        num_layers=max(site.layer for site in sites) + 1,
        num_neurons=max(site.width for site in sites),
    )
