"""What a sweep saves: baseline and twelve masks in one process against thirteen ``lm_eval`` calls.

    python benchmarks/sweep.py --json benchmarks/sweep.json

Runs on the bundled organism and its twelve masks; both ways evaluate the same tasks with the same settings. On a larger
model each call also loads the model anew, and a sweep saves more; evaluation itself costs the same.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cvoice_foundation.files import write_whole
from cvoice_tasks.values import VALUE_KEYS


def timed(command: list[str], threads: int) -> float:
    """Seconds of a command."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)  # noqa: S603 - made here
    return time.perf_counter() - start


def main() -> None:
    """Measures, prints, and writes JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="cvoice_zh")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    bin_folder = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as out:
        masks = Path(__file__).parents[1] / "organism" / "masks"
        sweep = [str(bin_folder / "cvoice"), "effects", "--model", "organism", "--masks", str(masks)]
        sweep += ["--tasks", chosen.tasks, "--controls", "0", "--device", "cpu", "--out", out]
        together = timed(sweep, chosen.threads)
    apart = 0.0
    for name in ("none", *(f"organism/{value}" for value in VALUE_KEYS)):
        call = [str(bin_folder / "lm_eval"), "--tasks", chosen.tasks, "--model", "neuron_masked_hf", "--device", "cpu"]
        call += ["--model_args", f"mask={name},pretrained=organism", "--batch_size", "8"]
        apart += timed(call, chosen.threads)
    result = {
        "tasks": chosen.tasks,
        "runs": 1 + len(VALUE_KEYS),
        "seconds_in_one_process": round(together, 1),
        "seconds_one_call_each": round(apart, 1),
        "ratio": round(together / apart, 3),
        "machine": f"{platform.machine()} cpu, {chosen.threads} threads",
    }
    print(json.dumps(result, indent=1))
    if chosen.json:
        write_whole(chosen.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
