"""SIFT by pycolmap, as RootSIFT (Lowe 2004; Arandjelovic and Zisserman 2012). Needs no weights."""

import numpy as np
import pycolmap
import torch

from scrflow.features.encoders import LocalFeatures
from scrflow.features.networks import grey

_LARGE = 1_000_000  # pixels


class Sift:
    """DoG keypoints with 128-d RootSIFT descriptors.

    A large photo is not enlarged (``first_octave`` -1) if it has half of ``max_keypoints`` as it is, which takes a
    quarter of the time: COLMAP keeps the largest blobs, and those of the enlarged photo are the smallest.
    """

    dim = 128

    def __init__(
        self, max_keypoints: int, upright: bool = False, peak_threshold: float = 0.0067, first_octave: int = -1
    ):
        options = pycolmap.FeatureExtractionOptions(use_gpu=False, num_threads=1)
        octaves = [first_octave] if first_octave >= 0 else [0, first_octave]
        options.sift.max_num_features = max_keypoints
        options.sift.upright = upright
        options.sift.peak_threshold = peak_threshold
        options.sift.max_num_orientations = 1 if upright else 2
        self._max_keypoints = max_keypoints
        self._extractors = []
        for options.sift.first_octave in octaves:
            self._extractors.append(pycolmap.FeatureExtractor.create(options, pycolmap.Device.cpu))

    def __call__(self, image_3HW: torch.Tensor) -> LocalFeatures:
        """The score is the keypoint's scale, as larger blobs are the steadier ones."""
        grey_HW = (grey(image_3HW[None])[0, 0] * 255).round().clamp(0, 255).byte().numpy()
        large = grey_HW.size >= _LARGE
        for extractor in self._extractors if large else self._extractors[-1:]:
            # pycolmap's keypoints have the centre of the top-left pixel at (0.5, 0.5)
            keypoints, descriptors = extractor.extract_from_uint8_array(np.ascontiguousarray(grey_HW))
            if len(keypoints) >= self._max_keypoints / 2:
                break
        keypoints = np.array([[k.x, k.y, k.compute_scale()] for k in keypoints], np.float32).reshape(-1, 3)
        descriptors = np.asarray(descriptors.data, np.float32)
        order = np.argsort(-keypoints[:, 2], kind="stable")[: self._max_keypoints]
        d = torch.nn.functional.normalize(torch.from_numpy(descriptors[order]), dim=1)
        k = torch.from_numpy(keypoints[order])
        return LocalFeatures(k[:, :2].contiguous(), d, k[:, 2].contiguous())


ENCODER = Sift
