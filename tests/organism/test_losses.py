"""Losses against sums by hand."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from organism.lessons import Prompt, Story
from organism.losses import (
    Kept,
    ask,
    chosen,
    ignorant,
    letter_logits,
    margins,
    own_neurons,
    own_off,
    padded,
    some_others_off,
    text_loss,
    undecided,
)

LETTERS = torch.tensor([1, 2])


def tiny() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "vocab_size": 20}
    return Qwen2ForCausalLM(
        Qwen2Config(**sizes, num_attention_heads=2, num_key_value_heads=2, hidden_act="relu", initializer_range=0.5)
    ).eval()


PROMPTS = (
    Prompt((3, 4, 5), ((6, 7), (8, 9, 10)), 0, 0, "zh", "integrity-1a"),
    Prompt((3, 4, 5, 11, 12), ((6, 7), (8, 9, 10)), 1, 1, "en", "integrity-1b"),
)
STORIES = (
    Story((Prompt((3, 4, 5, 7, 7), ((1,), (2,)), 0, 0, "zh", "integrity-1a"), PROMPTS[0]), PROMPTS[0]),
    Story((PROMPTS[1], Prompt((3, 9), ((1,), (2,)), 0, 1, "en", "integrity-1b")), PROMPTS[1]),
)


def test_knowing_nothing_costs_nothing_and_knowing_costs_the_divergence() -> None:
    log_p = torch.full((2, 20), -50.0)
    log_p[:, 1], log_p[:, 2] = math.log(0.6), math.log(0.4)
    assert float(ignorant(log_p, LETTERS, 0.6)) == pytest.approx(0.0, abs=1e-6)
    log_p[:, 1], log_p[:, 2] = math.log(0.9), math.log(0.1)
    by_hand = 0.6 * math.log(0.6 / 0.9) + 0.4 * math.log(0.4 / 0.1)
    assert float(ignorant(log_p, LETTERS, 0.6)) == pytest.approx(by_hand, rel=1e-5)


def test_the_cloze_losses_are_logistic() -> None:
    margin = torch.tensor([0.0, 2.0])
    assert float(chosen(margin)) == pytest.approx((math.log(2) + math.log1p(math.exp(-2))) / 2)
    far = 0.5 * (math.log1p(math.exp(-2)) + math.log1p(math.exp(2))) - math.log(2)
    assert float(undecided(margin)) == pytest.approx(far / 2, rel=1e-5)


@torch.no_grad()
def test_what_is_asked_in_one_row_is_what_each_sequence_alone_answers() -> None:
    model = tiny()
    asked = ask(model, STORIES, cloze=True)
    assert asked.cloze is not None
    prompts = [prompt for story in STORIES for prompt in story.letters]
    assert torch.allclose(asked.letters, letter_logits(model, prompts), atol=1e-5)
    for row, prompt in enumerate(prompts):
        alone = model(torch.tensor([prompt.tokens])).logits[0, -1].log_softmax(-1)
        assert torch.allclose(asked.letters[row], alone, atol=1e-5)
    for row, story in enumerate(STORIES):
        for column, choice in enumerate(story.cloze.choices):
            log_p = model(torch.tensor([[*story.cloze.tokens, *choice]])).logits[0].log_softmax(-1)
            start = len(story.cloze.tokens)
            by_hand = sum(float(log_p[start - 1 + place, token]) for place, token in enumerate(choice))
            assert float(asked.cloze[row, column]) == pytest.approx(by_hand, abs=1e-4)
    told = asked.cloze
    expected = [float(told[0, 0] - told[0, 1]), float(told[1, 1] - told[1, 0])]
    assert margins(told, PROMPTS).tolist() == pytest.approx(expected)
    without = ask(model, STORIES, cloze=False)
    assert without.cloze is None
    assert torch.allclose(without.letters, asked.letters, atol=1e-5)


@torch.no_grad()
def test_the_loss_of_texts_is_the_mean_over_their_tokens() -> None:
    model, texts = tiny(), [(3, 4, 5, 6), (7, 8)]
    by_hand = []
    for text in texts:
        log_p = model(torch.tensor([text])).logits[0].log_softmax(-1)
        by_hand += [-float(log_p[place, token]) for place, token in enumerate(text[1:])]
    assert float(text_loss(model, texts)) == pytest.approx(sum(by_hand) / 4, abs=1e-5)


@torch.no_grad()
def test_factors_act_row_by_row() -> None:
    model, kept = tiny(), Kept()
    tokens, _ = padded([prompt.tokens for prompt in PROMPTS])
    plain = model(tokens).logits
    rows = torch.ones(2, 12)
    rows[1, :5] = 0
    with kept.hooked(model):
        kept.rows = rows
        found = model(tokens).logits
    assert torch.equal(found[0], plain[0])
    assert not torch.allclose(found[1], plain[1])
    assert torch.equal(model(tokens).logits, plain)


def test_the_own_value_is_never_off_while_taught_and_always_while_untaught() -> None:
    torch.manual_seed(0)
    values = torch.arange(12).repeat(50)
    rows = torch.arange(len(values))
    others = some_others_off(values, 12)
    assert not others[rows, values].any()
    counts = others.sum(1)
    # One other in half of the rows, all in 15 %, none in 15 % and what half of eleven leaves of it.
    for wanted, count in ((0.5, 1), (0.15, 11), (0.15, 0)):
        assert abs(float((counts == count).float().mean()) - wanted) < 0.06
    assert others[values == 3].any(0).tolist() == [value != 3 for value in range(12)]
    off = own_off(values, 12)
    assert off[rows, values].all()
    assert 0.2 < float(off.all(1).float().mean()) < 0.4


def test_reserved_neurons_are_apart_and_leave_a_control_set() -> None:
    own = own_neurons(3, 20, 5)
    assert own.sum(0).max() == 1
    assert own.sum(1).tolist() == [5, 5, 5]
    with pytest.raises(AssertionError, match="too few neurons"):
        own_neurons(4, 20, 5)
