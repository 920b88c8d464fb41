"""All parameters of a head as one vector, and replicas that share it.

One vector is what the optimiser steps, and what processes add up, in one go. On a CPU a batch is cut into parts that
threads work on beside each other, each with a replica: operators of this size gain less from cores that share them
(docs/performance.md).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from scrflow.training.head import Head


def flatten_parameters(head: Head) -> nn.Parameter:
    """The vector [P] of all parameters, with a gradient; the head's own become views of it."""
    parts = [p.detach().flatten() for p in head.parameters()]
    vector = nn.Parameter(torch.cat(parts))
    vector.grad = torch.zeros_like(vector)
    _bind(head, vector.detach(), vector.grad)
    return vector


def replica_of(head: Head, vector: Tensor) -> tuple[Head, Tensor]:
    """A head that shares the parameters ``vector`` [P], with a gradient [P] of its own."""
    replica, gradient = copy.deepcopy(head), torch.zeros_like(vector)
    _bind(replica, vector.detach(), gradient)
    return replica.train(), gradient


def _bind(head: Head, vector: Tensor, gradient: Tensor) -> None:
    for parameter, begin, end in _ranges(head):
        parameter.data = vector[begin:end].view_as(parameter)
        parameter.grad = gradient[begin:end].view_as(parameter)


def _ranges(head: Head) -> Iterator[tuple[nn.Parameter, int, int]]:
    begin = 0
    for parameter in head.parameters():
        yield parameter, begin, begin + parameter.numel()
        begin += parameter.numel()
