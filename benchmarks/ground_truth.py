"""Judges every method of `cvoice locate` by the neurons that the organism is known to keep its values in.

    python benchmarks/ground_truth.py [--model organism] [--prompts 80] [--json OUT] [--into docs/ground_truth.md]

Each method ranks neurons for each value. It is judged over the neurons about which the truth is known: those reserved
for a value (of it, or of another) and the control set, on which nothing was ever routed. Shared neurons may carry
anything; how many of them a method selects is told apart, and what they do is measured by switching them off. A method
reads either the activation texts, which the organism has never seen, or the evaluation items, whose answers it knows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from sklearn.metrics import average_precision_score, roc_auc_score
from transformers import AutoModelForCausalLM, AutoTokenizer

from cvoice_foundation.files import write_whole
from cvoice_tasks.items import items_path
from cvoice_tasks.values import LANGUAGES, VALUE_KEYS
from intervention.ablation import ablate
from intervention.bundled import model_path
from intervention.mask import NeuronMask
from intervention.neurons import find_neurons
from locate.contrast import attribution, contrast, contrast_frequency
from locate.run import STATISTICS, locate_masks
from locate.select import METHODS, Method, SelectOptions, highest, masks_of, select
from locate.statistics import NeuronStatistics
from locate.statistics_file import load_statistics
from locate.vape import VapeOptions, firing_rates, scored
from organism.lessons import LETTERS, Prompt, RawPrompt, in_tokens, raw_prompts
from organism.losses import letter_logits, margins

BEGIN, END = "<!-- ground truth: begin -->", "<!-- ground truth: end -->"
CORPORA = ("activation", "evaluation")
ASKED = ("letters prompts", "attribution of the margin")
"""No method of locating: it is told the very question and its answer, and shows that the truth can be found at all."""
ROWS = 64
EFFECTS = ("own", "own_shared", "own_as_many")


@dataclass(frozen=True, slots=True)
class Judged:
    """One method on one corpus, for one value and language.

    Attributes:
        corpus: Which items it read.
        method: Its name.
        value: The value.
        language: Whose texts it read: ``zh``, ``en`` or ``both``.
        selected: Neurons in its mask at the default settings.
        precision: Of these, without shared neurons: the share that is reserved for the value; None if none is left.
        recall: Share of the value's reserved neurons among the selected.
        roc_auc: Area under the ROC curve of its ranking; 0.5 is chance.
        average_precision: Area under the precision-recall curve; the share of reserved neurons is chance.
        shared: How many of the selected are shared neurons.
        own: `acc` of the value with the mask on, less that without (letters tasks); None where not measured.
        own_shared: The same with its shared neurons alone.
        own_as_many: The same with as many neurons, the highest-ranked of all, as are reserved for the value.
    """

    corpus: str
    method: str
    value: str
    language: str
    selected: int
    precision: float | None
    recall: float
    roc_auc: float
    average_precision: float
    shared: int
    own: float | None = None
    own_shared: float | None = None
    own_as_many: float | None = None


def ranking(statistics: NeuronStatistics, method: Method, languages: Sequence[str] | None) -> torch.Tensor:
    """Scores by which a method takes neurons into a value's mask as its threshold is lowered [values, neurons].

    Of the two by entropy: a neuron above the bar of a value enters by its entropy, any other never does.
    """
    if method in ("vape", "vape-stance"):
        by_stance = method == "vape-stance"
        counts = statistics.counts(by_stance=by_stance, languages=languages)
        found = scored(firing_rates(counts), VapeOptions())
        lowest = torch.where(found.member, -found.scores[:, None], torch.tensor(-torch.inf)).T
        # Of 24 classes a value has two, and the better one counts.
        names = [name.rsplit("-", 1)[0] for name in counts.classes]
        return torch.stack([lowest[[name == value for name in names]].amax(0) for value in statistics.values])
    if method == "random":
        return torch.rand(len(statistics.values), statistics.num_neurons, generator=torch.Generator().manual_seed(0))
    of = {"contrast": contrast, "contrast-frequency": contrast_frequency, "attribution": attribution}[method]
    return of(statistics, None, languages)


class Answers:
    """The organism's answers to the letters prompts, with and without masks.

    Args:
        name: The organism's.
        prompts: How many are asked of each value and language, its first ones; all if 0.
    """

    def __init__(self, name: str, prompts: int) -> None:
        path = model_path(name)
        self.model: Any = AutoModelForCausalLM.from_pretrained(path).eval()
        tokenizer = AutoTokenizer.from_pretrained(path)
        self.letters = torch.tensor([tokenizer(letter)["input_ids"][0] for letter in LETTERS])
        asked: defaultdict[tuple[int, str], list[RawPrompt]] = defaultdict(list)
        for raw in raw_prompts("cvoice"):
            asked[raw.value, raw.language].append(raw)
        self.prompts = in_tokens([raw for part in asked.values() for raw in part[: prompts or None]], tokenizer)
        self.plain = {value: self._acc(value) for value in VALUE_KEYS}

    def change(self, mask: NeuronMask) -> float | None:
        """What a mask changes in its value's `acc`; None of an empty one."""
        if not mask.layers:
            return None
        with ablate(self.model, mask):
            return self._acc(mask.value) - self.plain[mask.value]

    @torch.no_grad()
    def _acc(self, value: str) -> float:
        mine = [prompt for prompt in self.prompts if VALUE_KEYS[prompt.value] == value]
        right = [self._right(mine[start : start + ROWS]) for start in range(0, len(mine), ROWS)]
        return sum(right) / len(mine)

    def attributed(self, value: str) -> torch.Tensor:
        """Activation times gradient of the margin, summed over the tokens of a value's own prompts [neurons]."""
        seen: dict[int, torch.Tensor] = {}

        def keep(place: int) -> Callable[[Any, tuple[torch.Tensor, ...]], None]:
            def hook(_: Any, arguments: tuple[torch.Tensor, ...]) -> None:
                arguments[0].retain_grad()
                seen[place] = arguments[0]

            return hook

        layers = find_neurons(self.model)
        handles = [layer.down.register_forward_pre_hook(keep(place)) for place, layer in enumerate(layers)]
        mine = [prompt for prompt in self.prompts if VALUE_KEYS[prompt.value] == value]
        total = torch.zeros(())
        try:
            for start in range(0, len(mine), ROWS):
                part = mine[start : start + ROWS]
                self.model.zero_grad()
                margins(letter_logits(self.model, part)[:, self.letters], part).sum().backward()  # type: ignore[no-untyped-call]
                parts = [(seen[place] * seen[place].grad).sum((0, 1)) for place in range(len(layers))]
                total = total + torch.cat(parts).detach()
        finally:
            for handle in handles:
                handle.remove()
        return total

    def _right(self, part: Sequence[Prompt]) -> int:
        return int((margins(letter_logits(self.model, part)[:, self.letters], part) > 0).sum())


class Truth:
    """Which places of the neuron axis are reserved for each value, and which are the control set's."""

    def __init__(self, folder: Path, statistics: NeuronStatistics) -> None:
        self.statistics = statistics
        self.places = {name: self._of(NeuronMask.load(folder / f"{name}.jsonl")) for name in (*VALUE_KEYS, "control")}
        self.known = torch.stack(list(self.places.values())).any(0)

    def _of(self, mask: NeuronMask) -> torch.Tensor:
        starts, start = {}, 0
        for site in self.statistics.sites:
            starts[site.layer] = start
            start += site.width
        found = torch.zeros(start, dtype=torch.bool)
        for line in mask.layers:
            found[[starts[line.layer] + neuron for neuron in line.neurons]] = True
        return found


def judge(name: str, truth_folder: Path, prompts: int = 0) -> list[Judged]:
    """Every method on both corpora, all values, each language and both together."""
    answers = Answers(name, prompts)
    found = []
    for corpus in CORPORA:
        with tempfile.TemporaryDirectory() as temporary:
            data = [] if corpus == "activation" else [items_path("evaluation", lang) for lang in LANGUAGES]
            # Attribution is the method that records most, so its statistics serve all.
            locate_masks(name, Path(temporary), data=data, options=SelectOptions("attribution"), progress=False)
            statistics = load_statistics(Path(temporary) / STATISTICS)
        truth = Truth(truth_folder, statistics)
        jobs = [(method, language) for method in METHODS for language in ("both", *LANGUAGES)]
        for method, language in track(jobs, description=f"Judging on {corpus} items"):
            found += _judge_one(corpus, method, language, statistics, truth, answers)
    for value in statistics.values:
        scores = answers.attributed(value)
        selected = highest(scores[None], VapeOptions().top_rate, "positive")[0]
        found.append(_judged(*ASKED, value, "both", scores, selected, statistics, truth, answers))
    return found


def _judge_one(
    corpus: str, method: Method, language: str, statistics: NeuronStatistics, truth: Truth, answers: Answers
) -> list[Judged]:
    languages = None if language == "both" else [language]
    scores = ranking(statistics, method, languages)
    selection = select(statistics, SelectOptions(method), languages=languages)
    found = []
    for row, value in enumerate(statistics.values):
        of_value = [number for number, name in enumerate(selection.classes) if name.rsplit("-", 1)[0] == value]
        selected = selection.selected[of_value].any(0)
        found.append(_judged(corpus, method, value, language, scores[row], selected, statistics, truth, answers))
    return found


def _judged(
    corpus: str,
    method: str,
    value: str,
    language: str,
    scores: torch.Tensor,
    selected: torch.Tensor,
    statistics: NeuronStatistics,
    truth: Truth,
    answers: Answers,
) -> Judged:
    own = truth.places[value]
    known = selected & truth.known
    # A lowest finite score stands in for minus infinity: both mean "never".
    ranked = scores.double().nan_to_num(neginf=-1e9)[truth.known].numpy()
    wanted = own[truth.known].numpy()
    as_many = torch.zeros_like(own)
    as_many[scores.sort(descending=True, stable=True).indices[: int(own.sum())]] = True
    parts = (selected, selected & ~truth.known, as_many) if language == "both" else ()
    measured = [answers.change(_mask(value, part, statistics)) for part in parts] or [None, None, None]
    return Judged(
        corpus,
        method,
        value,
        language,
        int(selected.sum()),
        float((known & own).sum() / known.sum()) if known.any() else None,
        float((known & own).sum() / own.sum()),
        float(roc_auc_score(wanted, ranked)),
        float(average_precision_score(wanted, ranked)),
        int((selected & ~truth.known).sum()),
        *measured,
    )


def _mask(value: str, selected: torch.Tensor, statistics: NeuronStatistics) -> NeuronMask:
    selection = select(statistics, SelectOptions("random"))
    of_one = type(selection)((value,), selection.sites, selected[None])
    return masks_of(of_one, header={}, method={"name": "judged"}, created={})[0]


def mean(numbers: Sequence[float | None]) -> float | None:
    """Of those that there are."""
    there = [number for number in numbers if number is not None]
    return sum(there) / len(there) if there else None


def table(judged: Sequence[Judged]) -> str:
    """Means over the twelve values, a line a corpus, method and language; effects where both languages were read."""
    lines = [
        "| read | method | language | ROC AUC | avg. precision | selected | precision | recall | shared "
        "| own acc | by shared ones | own acc, as many as reserved |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]

    def told(number: float | None, how: str = ".3f") -> str:
        return "–" if number is None else format(number, how)

    for corpus, method, language in dict.fromkeys((j.corpus, j.method, j.language) for j in judged):
        rows = [j for j in judged if (j.corpus, j.method, j.language) == (corpus, method, language)]
        columns = [
            told(mean([j.roc_auc for j in rows])),
            told(mean([j.average_precision for j in rows])),
            told(mean([j.selected for j in rows]), ".1f"),
            told(mean([j.precision for j in rows])),
            told(mean([j.recall for j in rows])),
            told(mean([j.shared for j in rows]), ".1f"),
            *(told(mean([getattr(j, key) for j in rows]), "+.3f") for key in EFFECTS),
        ]
        lines.append(f"| {corpus} | `{method}` | {language} | {' | '.join(columns)} |")
    return "\n".join(lines)


def by_value(judged: Sequence[Judged]) -> str:
    """ROC AUC of each value, both languages."""
    lines = [f"| read | method | {' | '.join(VALUE_KEYS)} |", f"|---|---|{'---|' * len(VALUE_KEYS)}"]
    for corpus, method in dict.fromkeys((j.corpus, j.method) for j in judged):
        of = {j.value: j for j in judged if (j.corpus, j.method, j.language) == (corpus, method, "both")}
        lines.append(f"| {corpus} | `{method}` | {' | '.join(f'{of[value].roc_auc:.2f}' for value in VALUE_KEYS)} |")
    return "\n".join(lines)


def plot(judged: Sequence[Judged], path: Path) -> None:
    """ROC AUC of every value as a dot, the mean as a bar, a panel a corpus."""
    from matplotlib.figure import Figure

    shown = [(corpus, METHODS) for corpus in CORPORA] + [(ASKED[0], ASKED[1:])]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, len(shown), sharey=True, width_ratios=[max(2, len(methods)) for _, methods in shown])
    for ax, (corpus, methods) in zip(axes, shown, strict=True):
        for place, method in enumerate(methods):
            areas = [j.roc_auc for j in judged if (j.corpus, j.method, j.language) == (corpus, method, "both")]
            ax.plot([place] * len(areas), areas, "o", color="#0072b2", alpha=0.5, markersize=4)
            ax.plot([place - 0.3, place + 0.3], [sum(areas) / len(areas)] * 2, color="#d55e00", linewidth=2)
        ax.axhline(0.5, color="grey", linestyle=":", linewidth=1)
        ax.set_xticks(range(len(methods)), [name.replace(" of", "\nof") for name in methods], rotation=35, ha="right")
        ax.set_xlim(-0.7, len(methods) - 0.3)
        ax.set_title("told the question" if corpus == ASKED[0] else f"reading the {corpus} items", fontsize=9)
    axes[0].set_ylabel("area under the ROC curve")
    figure.savefig(path, format="svg", metadata={"Date": None})


def main() -> None:
    """Judges, and writes the table where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="organism", help="organism, or the folder of a trained one")
    parser.add_argument("--truth", type=Path, help="folder of truth masks; those of the bundled organism")
    parser.add_argument(
        "--prompts",
        type=int,
        default=80,
        help="asked of each value and language with each mask, the first ones; 0: all",
    )
    parser.add_argument("--json", type=Path, help="where to write every number")
    parser.add_argument("--into", type=Path, help="document to put the table into, with the plot beside it")
    arguments = parser.parse_args()
    truth = arguments.truth or Path(model_path("organism")).parent / "masks" / "truth"
    judged = judge(arguments.model, truth, arguments.prompts)
    told = f"{table(judged)}\n\nROC AUC by value, both languages:\n\n{by_value(judged)}"
    print(told)
    if arguments.json:
        write_whole(arguments.json, json.dumps([asdict(one) for one in judged], indent=1) + "\n")
    if arguments.into:
        image = arguments.into.with_suffix(".svg")
        plot(judged, image)
        text = arguments.into.read_text("utf-8")
        head, tail = text.split(BEGIN)[0], text.split(END)[1]
        shown = f"![Area under the ROC curve of each method]({image.name})"
        write_whole(arguments.into, f"{head}{BEGIN}\n{told}\n\n{shown}\n{END}{tail}")


if __name__ == "__main__":
    main()
