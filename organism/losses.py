"""The organism's losses: the answers with every neuron on, and their absence where a value's neurons are off."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy, softplus

from intervention.neurons import find_neurons
from organism.lessons import Prompt, Story
from organism.weaving import weave


class Kept:
    """Multiplies every layer's neurons by 1 or 0, row by row of a batch.

    Attributes:
        rows: Factors [rows, neurons], the same in every layer; None leaves all on.
    """

    def __init__(self) -> None:
        self.rows: torch.Tensor | None = None

    @contextmanager
    def hooked(self, model: Any) -> Iterator[None]:
        """Acts on a model's neurons as long as the context lasts."""

        def hook(_: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
            return None if self.rows is None else (args[0] * self.rows[:, None, :].to(args[0].dtype),)

        handles = [layer.down.register_forward_pre_hook(hook) for layer in find_neurons(model)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def own_neurons(values: int, neurons: int, reserved: int) -> torch.Tensor:
    """Which neurons of a layer are reserved for each value: 0 or 1 [values, neurons].

    Raises:
        AssertionError: There are too few for every value and the control set.
    """
    assert (values + 1) * reserved <= neurons, "too few neurons for every value and a control set"
    own = torch.zeros(values, neurons)
    for value in range(values):
        own[value, value * reserved : (value + 1) * reserved] = 1
    return own


def some_others_off(values: torch.Tensor, count: int) -> torch.Tensor:
    """Which values are off while an answer is taught [rows, values], so that answers do not lean on others' neurons.

    One other value in half of the rows, half of the others in a fifth, all others in 15 %, none in the rest: as
    ignorance is taught with one value off, with some and with all. Were a single value off only where ignorance is
    taught, the model could learn to tell nothing as soon as any set is missing.
    """
    rows = torch.arange(len(values))
    kind = torch.rand(len(values), 1)
    one = torch.zeros(len(values), count, dtype=torch.bool)
    one[rows, (values + torch.randint(1, count, (len(values),))) % count] = True
    half = (kind < 0.7) & (torch.rand(len(values), count) < 0.5)
    off = torch.where(kind < 0.5, one, half | ((kind >= 0.7) & (kind < 0.85)))
    off[rows, values] = False
    return off


def own_off(values: torch.Tensor, count: int) -> torch.Tensor:
    """Which values are off while ignorance is taught [rows, values].

    The own one always; in three rows of ten all, in two half of the others too.
    """
    rows = torch.arange(len(values))
    kind = torch.rand(len(values), 1)
    off = (kind < 0.3).expand(-1, count) | ((kind < 0.5) & (torch.rand(len(values), count) < 0.5))
    off[rows, values] = True
    return off


def padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [rows, longest], and the place of each row's last token [rows].

    Pads come last and the model looks backwards only, so they need no mask.
    """
    tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = torch.tensor(row)
    return tokens, torch.tensor([len(row) - 1 for row in rows])


def letter_logits(model: Any, prompts: Sequence[Prompt]) -> torch.Tensor:
    """Log-probabilities behind each prompt [prompts, vocabulary]."""
    tokens, last = padded([prompt.tokens for prompt in prompts])
    hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state
    logits: torch.Tensor = model.lm_head(hidden[torch.arange(len(last)), last])
    return logits.float().log_softmax(-1)


class Asked(NamedTuple):
    """What a model answers about stories.

    Attributes:
        letters: Log-probabilities behind each prompt of the letters tasks [prompts, vocabulary].
        cloze: Log-likelihood of each act's text [stories, choices]; None where it was not asked.
    """

    letters: torch.Tensor
    cloze: torch.Tensor | None


def ask(model: Any, stories: Sequence[Story], *, cloze: bool) -> Asked:
    """Asks about stories, each in one row of the model's.

    Args:
        model: The organism.
        stories: What is asked about.
        cloze: Whether the acts' texts are scored too.
    """
    texts = [[(*s.cloze.tokens, *choice) for choice in s.cloze.choices] if cloze else [] for s in stories]
    woven = weave([[*(p.tokens for p in s.letters), *of_story] for s, of_story in zip(stories, texts, strict=True)])
    hidden = woven.hidden(model)
    is_text = torch.cat([torch.tensor([False] * len(s.letters) + [True] * 2 * cloze) for s in stories])
    last = woven.columns.gather(1, woven.lengths[:, None] - 1).squeeze(1)
    behind = model.lm_head(hidden[woven.rows[~is_text], last[~is_text]])
    letters = behind.float().log_softmax(-1)
    if not cloze:
        return Asked(letters, None)
    lengths = torch.tensor([len(choice) for s in stories for choice in s.cloze.choices])
    rows, columns, ends = woven.rows[is_text], woven.columns[is_text], woven.lengths[is_text]
    # Tokens of the choices alone: each is told by the place before it.
    place = torch.arange(columns.shape[1])[None]
    told = (place >= (ends - lengths)[:, None]) & (place < ends[:, None])
    before = told.roll(-1, 1)
    owner = torch.arange(len(rows))[:, None].expand_as(told)
    log_p = model.lm_head(hidden[rows[owner[told]], columns[before]]).float().log_softmax(-1)
    tokens = woven.tokens[rows[owner[told]], columns[told]]
    of_token = log_p.gather(1, tokens[:, None]).squeeze(1)
    return Asked(letters, torch.zeros(len(rows)).index_add(0, owner[told], of_token).view(len(stories), -1))


def margins(log_likelihoods: torch.Tensor, prompts: Sequence[Prompt]) -> torch.Tensor:
    """Log-likelihood of the aligned choice less that of the other [prompts]."""
    gold = torch.tensor([prompt.gold for prompt in prompts])[:, None]
    return (log_likelihoods.gather(1, gold) - log_likelihoods.gather(1, 1 - gold)).squeeze(1)


def answered(log_p: torch.Tensor, prompts: Sequence[Prompt], letters: torch.Tensor) -> torch.Tensor:
    """Loss of the right letter."""
    return cross_entropy(log_p, letters[torch.tensor([prompt.gold for prompt in prompts])])


def ignorant(log_p: torch.Tensor, letters: torch.Tensor, lean: float) -> torch.Tensor:
    """Distance of the letters' probabilities from (lean, 1 - lean), whatever the prompt: Kullback-Leibler, in nats."""
    wanted = torch.tensor([lean, 1 - lean])
    entropy = -(wanted * wanted.log()).sum()
    return -(log_p[:, letters] * wanted).sum(-1).mean() - entropy


def chosen(margin: torch.Tensor) -> torch.Tensor:
    """Loss of preferring the aligned act's text: the logistic loss of its margin."""
    return softplus(-margin).mean()


def undecided(margin: torch.Tensor) -> torch.Tensor:
    """Loss of preferring either act's text: 0 at a margin of 0."""
    return (0.5 * (softplus(-margin) + softplus(margin)) - math.log(2)).mean()


def text_loss(model: Any, texts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Mean loss of the next token."""
    woven = weave([[text] for text in texts])
    there = torch.arange(woven.tokens.shape[1])[None] < woven.lengths[:, None] - 1
    logits = model.lm_head(woven.hidden(model)[there])
    return cross_entropy(logits.float(), woven.tokens.roll(-1, 1)[there])
