"""Sizes of the papers' maps, from the heads of our configs (docs/methods.md).

A megabyte is 1e6 bytes. ACE and GLACE count only the file of the head in fp16, and truncate: 9.53 is 9 (GLACE tables 1
to 5).
"""

from pathlib import Path

import pytest
import torch

from scrflow.config import HeadConfig
from scrflow.pipeline.project import Project
from scrflow.training.head import Head

PROJECT = Project(Path(__file__).resolve().parents[2] / "config")
MB = 1e6
ACE, SUPERPOINT, R2FORMER = 512, 256, 256  # dimensions
FILE = 20_000  # bytes that names and headers of some thirty tensors add at most


def head_bytes(config: HeadConfig, dim_in: int) -> int:
    """Parameters in fp16 and cluster centres in fp32, as in head.safetensors; counted without memory."""
    with torch.device("meta"):
        head = Head(dim_in, config, torch.zeros(config.clusters, 3))
    return 2 * sum(p.numel() for p in head.parameters()) + 4 * head.decoder.centres.numel()


@pytest.mark.parametrize(
    ("method", "dim_in", "published"),
    [
        ("ace", ACE, 4),
        ("glace-rooms", ACE + R2FORMER, 9),
        ("glace-integrated", ACE + R2FORMER, 9),
        ("glace-cambridge", ACE + R2FORMER, 13),
        ("glace-aachen", ACE + R2FORMER, 27),
        ("glace-aachen-superpoint", ACE + SUPERPOINT + R2FORMER, 23),
    ],
)
def test_heads_of_ace_and_glace(method, dim_in, published):
    config = PROJECT.method(method)
    assert PROJECT.encoders[config.encoder].pca.dim + (R2FORMER if method != "ace" else 0) == dim_in
    size = head_bytes(config.head, dim_in)
    assert int((size + FILE) / MB) == published and size / MB == pytest.approx(published, rel=0.06)
