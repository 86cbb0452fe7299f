"""Several processes that share one corpus: what ``torchrun`` started, or this one alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those that were started together.

    Attributes:
        rank: Its number, from 0.
        count: How many there are.
    """

    rank: int
    count: int

    @classmethod
    @contextmanager
    def joined(cls) -> Iterator[Processes]:
        """Joins the processes that ``torchrun`` has started; alone where there are none."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            yield cls(0, 1)
            return
        # gloo: statistics are passed on as files, so that processes only wait for one another.
        distributed.init_process_group("gloo")
        try:
            yield cls(distributed.get_rank(), count)
        finally:
            distributed.destroy_process_group()

    def device(self) -> str | None:
        """The device of this process where each has one of its own; None to leave it to others."""
        if self.count > 1 and torch.cuda.is_available():
            return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
        return None

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            distributed.barrier()
