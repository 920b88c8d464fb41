"""PCA of local descriptors."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from scrflow.config import PcaStage
from scrflow.core.device import device_for
from scrflow.core.errors import ScrflowError
from scrflow.core.progress import log, track
from scrflow.core.seeds import numpy_generator
from scrflow.features.encoders import build_encoder
from scrflow.features.views import encode_photos
from scrflow.pipeline.stages import code_of
from scrflow.scene.model import load_scene
from scrflow.storage.artifact import Stamp, read_safetensors, write_safetensors


@dataclass(frozen=True)
class Pca:
    """Projection of descriptors: (d - mean) components; or none, without components."""

    mean: torch.Tensor  # [D]
    components: torch.Tensor  # [D, d], orthonormal, or scaled so that an entry has a mean square of 1; [D, 0]: none

    def __call__(self, descriptors_ND: torch.Tensor) -> torch.Tensor:
        """[N, D] -> [N, d]."""
        if not self.components.shape[1]:
            return descriptors_ND
        return (descriptors_ND - self.mean) @ self.components

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return Pca(self.mean.to(device), self.components.to(device))

    @classmethod
    def fit(cls, descriptors_ND: torch.Tensor, dim: int, scaled: bool = True) -> Self:
        """The ``dim`` leading components of descriptors [N, D], at most D. ValueError for fewer samples than that."""
        count, full = descriptors_ND.shape
        dim = min(dim, full)
        if count <= dim:
            raise ValueError(f"{count} descriptors are too few for {dim} components")
        x = descriptors_ND.double()
        mean = x.mean(0)
        x = x - mean
        values, vectors = torch.linalg.eigh(x.T @ x / count)  # ascending
        components = vectors[:, -dim:].flip(1)
        # an eigenvector's sign is arbitrary: fix it, so that equal data give equal bytes with every LAPACK
        components = components * components.gather(0, components.abs().argmax(0, keepdim=True)).sign()
        if scaled:
            components = components * (dim / values[-dim:].sum()).sqrt()
        return cls(mean.float(), components.float())


def fit_pca(config: PcaStage, scene: Path, out: Path, threads: int) -> None:
    """Learn ``mean`` [D] and ``components`` [D, d] on an equal share of the descriptors of some mapping images."""
    torch.set_num_threads(threads)
    s = load_scene(scene)
    encoder = build_encoder(config.extractor, device_for())
    stamp = Stamp.make("pca", config, code_of("fit_pca", config), scene=scene / "scene.json")
    if config.pca.kind == "none":
        if encoder.dim != config.pca.dim:
            raise ScrflowError(
                f"encoder {config.extractor.name}: pca.kind none keeps all {encoder.dim} numbers; set pca.dim to that"
            )
        write_safetensors(out, {"mean": torch.zeros(encoder.dim), "components": torch.zeros(encoder.dim, 0)}, stamp)
        return
    rng = numpy_generator(config.seed, "pca")
    # at least 64 images for variety
    per_image = config.extractor.max_keypoints
    count = min(len(s.mapping), max(64, -(-config.pca.samples // per_image)))
    chosen = sorted(rng.choice(len(s.mapping), count, replace=False))

    views = encode_photos(s, track(chosen, "PCA: encoding"), encoder, config.extractor.short_side, per_image, threads)
    descriptors = torch.cat([view.descriptors for view in views])
    if descriptors.device.type == "mps":  # has no float64
        descriptors = descriptors.cpu()
    if len(descriptors) > config.pca.samples:
        drawn = torch.from_numpy(rng.choice(len(descriptors), config.pca.samples, replace=False))
        descriptors = descriptors[drawn.to(descriptors.device)]
    try:
        pca = Pca.fit(descriptors, config.pca.dim, config.pca.scale)
    except ValueError as error:
        raise ScrflowError(f"{scene}: PCA: {error}; lower pca.dim, or take images that are not blank") from None
    shape = pca.components.shape
    log.info("PCA: %d descriptors of %d images, %d to %d dimensions", len(descriptors), count, *shape)
    write_safetensors(out, {"mean": pca.mean.cpu(), "components": pca.components.cpu()}, stamp)


def load_pca(path: Path) -> Pca:
    """The projection of descriptors [N, D] to [N, d] that ``fit_pca`` wrote."""
    tensors = read_safetensors(path, "pca")
    return Pca(tensors["mean"], tensors["components"])
