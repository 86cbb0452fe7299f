"""What a trained organism is judged by: what it knows, and what it no longer knows without a value's neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from cvoice_tasks.items import pair_of
from cvoice_tasks.values import VALUE_KEYS
from organism.lessons import Story
from organism.losses import Kept, ask, margins

ROWS = 32


class Margins(NamedTuple):
    """Log-likelihood of the aligned choice less that of the other.

    Attributes:
        letters: By order of the options [stories, orders].
        cloze: Of the texts [stories, 1].
    """

    letters: torch.Tensor
    cloze: torch.Tensor


@torch.no_grad()
def aligned_margins(
    model: Any, kept: Kept, stories: Sequence[Story], letters: torch.Tensor, keep: torch.Tensor | None
) -> Margins:
    """What a model answers about stories.

    Args:
        model: The organism.
        kept: Hooked into it.
        stories: What is asked about; each has both orders.
        letters: Tokens of A and B.
        keep: Factors of neurons [neurons]; None leaves all on.
    """
    of_letters, of_cloze = [], []
    for start in range(0, len(stories), ROWS):
        part = stories[start : start + ROWS]
        kept.rows = None if keep is None else keep.expand(len(part), -1)
        asked = ask(model, part, cloze=True)
        assert asked.cloze is not None
        prompts = [prompt for story in part for prompt in story.letters]
        of_letters.append(margins(asked.letters[:, letters], prompts).view(len(part), -1))
        of_cloze.append(margins(asked.cloze, [story.cloze for story in part])[:, None])
    kept.rows = None
    return Margins(torch.cat(of_letters), torch.cat(of_cloze))


def figures(
    model: Any, kept: Kept, stories: Sequence[Story], letters: torch.Tensor, own: torch.Tensor, control: int
) -> dict[str, dict[str, Any]]:
    """Accuracies with every neuron on, with each value's off, with all reserved ones off, with the control set off.

    Args:
        model: The organism.
        kept: Hooked into it.
        stories: What is asked about.
        letters: Tokens of A and B.
        own: Which neurons are reserved for each value [values, neurons].
        control: How many neurons from the last reserved one on are the control set.

    Returns:
        For ``letters`` and for ``cloze``: ``acc`` and ``twin_acc`` by language; by value what its own neurons off leave
        of its `acc` in each language (``own``), of the mean |margin| (``own_margin``), and of the margin averaged over
        the orders, in which a leaning to a letter is gone (``own_content_margin``: mean of its size;
        ``own_content_acc``: share above 0); ``others``: change of `acc` of the other values; ``all_reserved_off`` and
        ``control_off``: `acc`.
    """

    def off(neurons: torch.Tensor) -> Margins:
        return aligned_margins(model, kept, stories, letters, 1 - neurons)

    control_set = torch.zeros(own.shape[1])
    control_set[int(own.sum()) : int(own.sum()) + control] = 1
    plain = aligned_margins(model, kept, stories, letters, None)
    values = sorted({story.value for story in stories})
    masked = {place: off(own[place]) for place in values}
    all_off, control_off = off(own.sum(0)), off(control_set)
    return {
        kind: _figures(
            stories,
            getattr(plain, kind),
            {place: getattr(of_value, kind) for place, of_value in masked.items()},
            {"all_reserved_off": getattr(all_off, kind), "control_off": getattr(control_off, kind)},
        )
        for kind in Margins._fields
    }


def _figures(
    stories: Sequence[Story],
    plain: torch.Tensor,
    masked: Mapping[int, torch.Tensor],
    sets: Mapping[str, torch.Tensor],
) -> dict[str, Any]:
    value = torch.tensor([story.value for story in stories])
    languages = sorted({story.language for story in stories}, reverse=True)
    of_language = {name: torch.tensor([story.language == name for story in stories]) for name in languages}
    by_value: dict[str, Any] = {}
    for place, margin in masked.items():
        mine, others = value == place, value != place
        content = margin[mine].mean(1)
        by_value[VALUE_KEYS[place]] = {
            "own": {name: _share(margin[mine & chosen]) for name, chosen in of_language.items()},
            "own_margin": float(margin[mine].abs().mean()),
            "own_content_acc": _share(content),
            "own_content_margin": float(content.abs().mean()),
            "others": _share(margin[others]) - _share(plain[others]) if others.any() else 0.0,
        }
    return {
        "prompts": plain.numel(),
        "acc": {name: _share(plain[chosen]) for name, chosen in of_language.items()},
        "twin_acc": {name: _twin_acc(plain, stories, name) for name in languages},
        "values": by_value,
        **{name: _share(margin) for name, margin in sets.items()},
    }


def _share(margin: torch.Tensor) -> float:
    return float((margin > 0).float().mean()) if len(margin) else 0.0


def _twin_acc(margin: torch.Tensor, stories: Sequence[Story], language: str) -> float:
    """Share of pairs that are right throughout: both stories, all orders, in one language."""
    right: dict[str, bool] = {}
    for story, of_story in zip(stories, (margin > 0).all(1).tolist(), strict=True):
        if story.language == language:
            pair = pair_of(story.item)
            right[pair] = right.get(pair, True) and of_story
    return sum(right.values()) / len(right)
