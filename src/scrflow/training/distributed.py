"""Several processes, one a GPU, started by torchrun: each draws its lanes of the batch, gradients are averaged."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist

from scrflow.core.errors import ScrflowError


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def join(cls, device: str) -> Processes:
        """As torchrun's environment says, alone without one. The group talks by NCCL on GPUs, by gloo on CPUs."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return cls()
        found = cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))
        if found.count > 1:
            if device == "cuda":
                torch.cuda.set_device(found.local_rank)
            dist.init_process_group("nccl" if device == "cuda" else "gloo")
        return found

    @property
    def writes(self) -> bool:
        """Whether this process logs and writes files."""
        return self.rank == 0

    def lanes(self, total: int) -> list[int]:
        """The lanes of this process. ScrflowError where they cannot be dealt out evenly."""
        if total % self.count:
            raise ScrflowError(
                f"training.gpus is {total}, and {self.count} processes were started: their number must divide it"
            )
        return list(range(self.rank, total, self.count))

    def average(self, gradient: torch.Tensor) -> None:
        """Replace a gradient by its mean over the processes."""
        if self.count > 1:
            dist.all_reduce(gradient)
            gradient /= self.count

    def leave(self) -> None:
        """End the group, when all are there."""
        if self.count > 1:
            dist.barrier()
            dist.destroy_process_group()
