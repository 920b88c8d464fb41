"""Every config of the repository is valid, every method's head can be built, and what is said of the papers holds."""

import math
from pathlib import Path

import pytest
import torch

from scrflow.config import BufferConfig, HeadConfig, LossConfig, MethodConfig, TrainingConfig
from scrflow.core.plugins import module_of
from scrflow.features.encoders.ace_superpoint import drawn_by_score, joined_cells
from scrflow.pipeline.project import Project
from scrflow.training.head import Head
from scrflow.training.losses import Targets, project, scene_coordinate_loss
from scrflow.training.trainer import one_cycle

PROJECT = Project(Path(__file__).resolve().parents[2] / "config")
RETRIEVAL_DIM = 128  # of vlad


@pytest.mark.parametrize("name", PROJECT.methods)
def test_method(name):
    method = PROJECT.method(name)
    assert module_of("local encoder", PROJECT.encoders[method.encoder].extractor.name)
    dim = PROJECT.encoders[method.encoder].pca.dim
    g = method.global_encoding.name
    if g is not None:
        dim += getattr(PROJECT.config.encodings.get(g), "dim", RETRIEVAL_DIM)
    head = Head(dim, method.head, torch.randn(method.head.clusters, 3))
    assert torch.isfinite(head(torch.randn(4, dim)).xyz_world).all()


@pytest.mark.parametrize("size", ["", "-cpu"])
def test_the_papers_methods_are_what_they_are(size):
    """ACE: no global encoding. GLACE: a diffused retrieval feature. R-SCoRe: Node2Vec of neighbours, and refinement."""
    ace, glace, rscore = (PROJECT.method(f"{name}{size}") for name in ("ace", "glace", "rscore"))
    assert ace.global_encoding.name is None and ace.head.clusters == 1 and ace.head.refine_blocks == 0
    assert glace.global_encoding.name in PROJECT.config.retrieval and glace.global_encoding.noise == 0.1
    assert glace.head.refine_blocks == 0
    assert rscore.global_encoding.name == "node2vec" and rscore.global_encoding.neighbour_share == 0.5
    assert rscore.head.refine_blocks > 0 and rscore.localize.hypotheses == 10
    loss = rscore.training.loss
    assert loss.coarse and loss.depth_adjusted and loss.pull and (loss.bandwidth_max, loss.bandwidth_min) == (25, 1)


def test_one_cycle_of_glace():
    """2e-4 up to 5e-3 and down to 2e-8 (GLACE sec. B), as torch's OneCycleLR goes."""
    config = PROJECT.method("glace").training
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    steps = 3000
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=steps + 1, cycle_momentum=False)
    theirs = []
    for _ in range(steps):
        theirs.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    theirs.append(optimiser.param_groups[0]["lr"])
    ours = [one_cycle(step / steps, config) for step in range(steps + 1)]
    assert ours[0] == pytest.approx(theirs[0]) and ours[-1] == pytest.approx(theirs[-1]) and max(ours) == 5e-3
    # torch ends the warm-up a step earlier; measured: 7e-5 of the highest rate apart at 30 000 steps, 0.02 at 100
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 1e-3 * 5e-3


def test_copies_fill_a_buffer():
    buffer = BufferConfig(plain_copies=0, augmented_copies=100, samples_per_copy=1000, max_samples=50_000)
    # 20 images: 50 000 / 20 000, rounded up; 1 image: no more than are wanted; many: at least one
    assert [buffer.copies(images) for images in (20, 1, 10_000)] == [3, 50, 1]
    assert buffer.model_copy(update={"max_samples": None}).copies(20) == 100


# ------------------------------------------------------------------------------------------ what the papers' heads need


def small(**values) -> HeadConfig:
    return HeadConfig(width=16, hidden_ratio=2, blocks=1, clusters=1, refine_blocks=1, frequencies=2, **values)


def test_padded_skip():
    """The input is added to the first channels: with all layers of the block at zero nothing else is left."""
    head = Head(5, small(input_skip="pad"), torch.zeros(1, 3))
    for layer in head.input.layers:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    x = torch.randn(3, 5)
    assert torch.equal(head.input(x), torch.cat([x, torch.zeros(3, 11)], 1))
    assert isinstance(Head(20, small(input_skip="pad"), torch.zeros(1, 3)).input.skip, torch.nn.Linear)


@pytest.mark.parametrize("passes", [True, False])
def test_gradient_into_the_coarse_coordinate(passes):
    """The loss on y reaches the decoder of y0, and so does the pull by way of y0's code, where the config says so."""
    torch.manual_seed(0)
    head = Head(5, small(coarse_gradient=passes), torch.zeros(1, 3))
    out = head(torch.randn(8, 5))
    out.xyz_world.sum().backward()
    assert (head.decoder.out.weight.grad is not None) == passes
    head.zero_grad()
    out = head(torch.randn(8, 5))
    torch.linalg.vector_norm(out.xyz_world - out.base, dim=1).sum().backward()
    assert (head.decoder.out.weight.grad is not None) == passes


def test_norm_of_the_reprojection_error():
    """3 and 4 px off: 7 in ACE's norm, 5 in R-SCoRe's."""
    K = torch.tensor([[[100.0, 0, 50], [0, 100, 50], [0, 0, 1]]])
    targets = Targets(torch.tensor([[50.0, 50.0]]), K, torch.eye(3, 4)[None], torch.zeros(1, 3))
    y = torch.tensor([[0.03, 0.04, 1.0]])
    assert [float(project(y, targets, LossConfig(norm=n)).error_px) for n in (1, 2)] == pytest.approx([7, 5], rel=1e-4)
    loss, _ = scene_coordinate_loss(y, y, targets, LossConfig(norm=1, bandwidth_max=9, bandwidth_min=1), 0.0, 0.0)
    assert float(loss) == pytest.approx(10 * math.tanh(0.7), rel=1e-4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mix_share": 0.5, "depth_source": "points"}, "mix_share needs depth_source matched"),
        ({"known_share": 0.5}, "known_share needs depths"),
    ],
)
def test_training_that_makes_no_sense(values, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**values)


def test_cells_drawn_by_their_corners():
    """GLACE's importance sampling: the first cells drawn are corners as often as their scores say."""
    torch.manual_seed(0)
    score = torch.full((40, 60), 0.01)
    corners = torch.rand(40, 60) < 0.1
    score[corners] = 0.3
    order = drawn_by_score(score)
    assert sorted(order.tolist()) == list(range(2400))
    # a tenth of the cells has 0.3 * 0.1 of 0.3 * 0.1 + 0.01 * 0.9, 77 %; measured: 41 of the first 60
    assert corners.flatten()[order[:60]].float().mean() > 0.6
    ace, superpoint = torch.randn(512, 40, 60), torch.randn(256, 40, 60)
    features = joined_cells(ace, superpoint, score, (315, 480), 500)
    assert features.descriptors.shape == (500, 768) and (features.keypoints_px[:, 1] < 315).all()
    column, row = ((features.keypoints_px[7] - 4) / 8).long().tolist()
    assert torch.equal(features.descriptors[7], torch.cat([ace[:, row, column], superpoint[:, row, column]]))


def test_a_retrieval_feature_needs_a_use():
    """Localization would have nothing to take from the images that it retrieves."""
    values = {"description": "ACE", "encoder": "xfeat", "localize": {"hypotheses": 1}}
    assert MethodConfig.model_validate(values).retrieval is None
    with pytest.raises(ValueError, match="retrieval: of no use without a global encoding"):
        MethodConfig.model_validate({**values, "retrieval": "vlad"})
