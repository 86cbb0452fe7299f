"""``mask=none`` is lm-eval's ``hf`` to the bit, on every architecture of the table."""

from __future__ import annotations

from pathlib import Path

import pytest
from lm_eval.models.huggingface import HFLM

from intervention.neuron_mask_lm import NeuronMaskedHFLM
from tests.tiny_checkpoint import choice_requests, tiny_checkpoint
from tests.tiny_models import DENSE, MIXTURES


@pytest.mark.parametrize("model_type", [*DENSE, *MIXTURES])
def test_baseline_equals_hf(model_type: str, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path, model_type)
    theirs = HFLM(pretrained=checkpoint, batch_size=3, device="cpu")
    ours = NeuronMaskedHFLM(mask=None, pretrained=checkpoint, batch_size=3, device="cpu")
    # Token ids by hand: some tokenizer classes replace a checkpoint's own splitting.
    requests = [(pair, list(range(4, 7 + i)), [9 + i]) for i, pair in enumerate(choice_requests())]
    assert ours._loglikelihood_tokens(requests, disable_tqdm=True) == theirs._loglikelihood_tokens(
        requests, disable_tqdm=True
    )
