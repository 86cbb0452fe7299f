"""Two processes on one machine share the work and give the scores of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.tiny_checkpoint import tiny_checkpoint
from tests.tiny_masks import tiny_mask

_RUN = """
import json, sys
from lm_eval.api.instance import Instance
from intervention.neuron_mask_lm import NeuronMaskedHFLM
from tests.tiny_checkpoint import choice_requests

checkpoint, mask, out = sys.argv[1:]
lm = NeuronMaskedHFLM(mask=mask, pretrained=checkpoint, mode="mean", batch_size=2, device="cpu")
mine = choice_requests(8)[lm.rank :: lm.world_size]  # as lm-eval shares documents out
scores = lm.loglikelihood([Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(mine)], disable_tqdm=True)
gathered = lm.gather_object(dict(zip((pair[0] for pair in mine), scores)))
lm.barrier()
if lm.rank == 0:
    json.dump({"parts": gathered, "world": lm.world_size}, open(out, "w"))
"""


def _run(launcher: list[str], arguments: list[str], tmp_path: Path) -> dict[str, list[object]]:
    script = tmp_path / "run.py"
    script.write_text(_RUN)
    out = tmp_path / f"{len(launcher)}.json"
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    subprocess.run(
        [sys.executable, *launcher, str(script), *arguments, str(out)], env=environment, check=True, timeout=170
    )
    loaded: dict[str, list[object]] = json.loads(out.read_text())
    return loaded


def test_torchrun_shares_the_work_on_cpu(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "model")
    mask = tmp_path / "integrity.jsonl"
    tiny_mask({0: (1, 2, 3), 2: (5,)}, means=2.0).save(mask)
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0", "--standalone"]
    alone = _run([], [checkpoint, str(mask)], tmp_path)
    shared = _run(torchrun, [checkpoint, str(mask)], tmp_path)
    assert (alone["world"], shared["world"]) == (1, 2)
    first, second = shared["parts"]
    assert len(first) == len(second) == 4  # type: ignore[arg-type]
    (together,) = alone["parts"]
    assert {**first, **second}.keys() == together.keys()  # type: ignore[dict-item,attr-defined]
    for context, (log_likelihood, _) in together.items():  # type: ignore[attr-defined]
        assert abs({**first, **second}[context][0] - log_likelihood) < 1e-5  # type: ignore[dict-item]
