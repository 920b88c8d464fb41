"""Every config of the repository is valid, and every method's head can be built and run."""

from pathlib import Path

import pytest
import torch

from scrflow.config import Project
from scrflow.encoders import encoder_module
from scrflow.head import Head

PROJECT = Project(Path(__file__).resolve().parents[2] / "config")
RETRIEVAL_DIM = 128  # of vlad


@pytest.mark.parametrize("name", PROJECT.methods)
def test_method(name):
    method = PROJECT.method(name)
    dim = PROJECT.encoders[method.encoder].pca.dim
    g = method.global_encoding.name
    if g is not None:
        dim += PROJECT.config.encodings[g].dim if g in PROJECT.config.encodings else RETRIEVAL_DIM
    head = Head(dim, method.head, torch.randn(method.head.clusters, 3))
    assert torch.isfinite(head(torch.randn(4, dim)).xyz_world).all()


@pytest.mark.parametrize("size", ["", "-cpu"])
def test_the_papers_methods_are_what_they_are(size):
    """ACE: no global encoding. GLACE: a diffused retrieval feature. R-SCoRe: Node2Vec of neighbours, and refinement."""
    ace, glace, rscore = (PROJECT.method(f"{name}{size}") for name in ("ace", "glace", "rscore"))
    assert ace.global_encoding.name is None and ace.head.clusters == 1 and ace.head.refine_blocks == 0
    assert glace.global_encoding.name in PROJECT.config.retrieval and glace.global_encoding.noise == 0.1
    assert glace.head.refine_blocks == 0 and glace.head.clusters > 1
    assert rscore.global_encoding.name == "node2vec" and rscore.global_encoding.neighbour_share == 0.5
    assert rscore.head.refine_blocks > 0 and rscore.localize.hypotheses == 10
    loss = rscore.training.loss
    assert loss.coarse and loss.depth_adjusted and loss.pull and (loss.bandwidth_max, loss.bandwidth_min) == (25, 1)


@pytest.mark.parametrize("name", PROJECT.encoders)
def test_encoder_is_known(name):
    assert encoder_module(PROJECT.encoders[name].extractor.name).startswith("encoders.")
