"""What a trained organism is judged by: what it knows, and what it no longer knows without a value's neurons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from cvoice_tasks.values import VALUE_KEYS
from organism.lessons import Prompt
from organism.losses import Kept, choice_log_likelihoods, letter_logits, margins

ROWS = 64


@torch.no_grad()
def aligned_margins(
    model: Any, kept: Kept, prompts: Sequence[Prompt], letters: torch.Tensor | None, keep: torch.Tensor | None
) -> torch.Tensor:
    """Log-likelihood of the aligned choice less that of the other [prompts].

    Args:
        model: The organism.
        kept: Hooked into it.
        prompts: Of the letters tasks if ``letters`` are given, else of the cloze tasks.
        letters: Tokens of A and B.
        keep: Factors of neurons [neurons]; None leaves all on.
    """
    found = []
    for start in range(0, len(prompts), ROWS):
        part = prompts[start : start + ROWS]
        rows = len(part) * (1 if letters is not None else 2)
        kept.rows = None if keep is None else keep.expand(rows, -1)
        scores = choice_log_likelihoods(model, part) if letters is None else letter_logits(model, part)[:, letters]
        found.append(margins(scores, part))
    kept.rows = None
    return torch.cat(found)


def figures(
    model: Any, kept: Kept, prompts: Sequence[Prompt], letters: torch.Tensor | None, own: torch.Tensor, control: int
) -> dict[str, Any]:
    """Accuracies with every neuron on, with each value's off, with all reserved ones off, with the control set off.

    Args:
        model: The organism.
        kept: Hooked into it.
        prompts: Of the letters tasks if ``letters`` are given, else of the cloze tasks.
        letters: Tokens of A and B.
        own: Which neurons are reserved for each value [values, neurons].
        control: How many neurons from the last reserved one on are the control set.

    Returns:
        ``acc`` and ``twin_acc`` by language; by value what its own neurons off leave of its `acc` in each language
        (``own``), of the mean |margin| (``own_margin``), and of the margin averaged over both orders, in which a
        leaning to a letter is gone (``own_content_margin``: mean of its size; ``own_content_acc``: share above 0);
        ``others``: change of `acc` of the other values; ``all_reserved_off`` and ``control_off``: `acc`.
    """
    plain = aligned_margins(model, kept, prompts, letters, None)
    value = torch.tensor([prompt.value for prompt in prompts])
    languages = sorted({prompt.language for prompt in prompts}, reverse=True)
    of_language = {name: torch.tensor([prompt.language == name for prompt in prompts]) for name in languages}
    result: dict[str, Any] = {
        "prompts": len(prompts),
        "acc": {name: _share(plain[chosen]) for name, chosen in of_language.items()},
        "twin_acc": {name: _twin_acc(plain[chosen], _of(prompts, chosen)) for name, chosen in of_language.items()},
    }
    by_value: dict[str, Any] = {}
    for place in sorted(set(value.tolist())):
        masked = aligned_margins(model, kept, prompts, letters, 1 - own[place])
        mine, others = value == place, value != place
        content = _over_orders(masked[mine], _of(prompts, mine))
        by_value[VALUE_KEYS[place]] = {
            "own": {name: _share(masked[mine & chosen]) for name, chosen in of_language.items()},
            "own_margin": float(masked[mine].abs().mean()),
            "own_content_acc": _share(content),
            "own_content_margin": float(content.abs().mean()),
            "others": _share(masked[others]) - _share(plain[others]) if others.any() else 0.0,
        }
    result["values"] = by_value
    result["all_reserved_off"] = _share(aligned_margins(model, kept, prompts, letters, 1 - own.sum(0)))
    keep = torch.ones(own.shape[1])
    keep[int(own.sum()) : int(own.sum()) + control] = 0
    result["control_off"] = _share(aligned_margins(model, kept, prompts, letters, keep))
    return result


def _share(margin: torch.Tensor) -> float:
    return float((margin > 0).float().mean()) if len(margin) else 0.0


def _of(prompts: Sequence[Prompt], chosen: torch.Tensor) -> list[Prompt]:
    return [prompt for prompt, there in zip(prompts, chosen.tolist(), strict=True) if there]


def _over_orders(margin: torch.Tensor, prompts: Sequence[Prompt]) -> torch.Tensor:
    """Margins of items, averaged over the orders of their options."""
    of_item: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for prompt, number in zip(prompts, margin.tolist(), strict=True):
        of_item[prompt.item, prompt.language].append(number)
    return torch.tensor([sum(numbers) / len(numbers) for numbers in of_item.values()])


def _twin_acc(margin: torch.Tensor, prompts: Sequence[Prompt]) -> float:
    """Share of pairs that are right throughout: both stories, all orders, in one language."""
    right: dict[str, bool] = {}
    for prompt, number in zip(prompts, margin.tolist(), strict=True):
        pair = prompt.item[:-1]
        right[pair] = right.get(pair, True) and number > 0
    return sum(right.values()) / len(right)
