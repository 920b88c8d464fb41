"""SIFT by OpenCV, as RootSIFT (Lowe 2004; Arandjelovic and Zisserman 2012): a third of pycolmap's time, and more
keypoints. Needs no weights."""

import threading

import cv2
import numpy as np
import torch

from scrflow.features.encoders import LocalFeatures


class OpencvSift:
    """DoG keypoints with 128-d RootSIFT descriptors, those of the strongest contrast first."""

    dim = 128
    side_by_side = True

    def __init__(self, max_keypoints: int, contrast_threshold: float = 0.01, edge_threshold: float = 10.0):
        self._max_keypoints = max_keypoints
        self._options = {"contrastThreshold": contrast_threshold, "edgeThreshold": edge_threshold}
        # Several threads call this at once, and an extractor keeps its pyramids: one a thread. A new one for each photo
        # would take a seventh longer (640 x 480), for memory that the system must clear.
        self._of_thread = threading.local()

    def __call__(self, image_3HW: torch.Tensor) -> LocalFeatures:
        """The score is the contrast."""
        pixels = (image_3HW.permute(1, 2, 0) * 255).round().clamp(0, 255).byte().contiguous().numpy()
        if not hasattr(self._of_thread, "sift"):
            self._of_thread.sift = cv2.SIFT_create(nfeatures=self._max_keypoints, **self._options)
        keypoints, descriptors = self._of_thread.sift.detectAndCompute(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), None)
        if not keypoints:
            return LocalFeatures(torch.zeros(0, 2), torch.zeros(0, self.dim), torch.zeros(0))
        score = np.array([k.response for k in keypoints], np.float32)
        # of equal scores OpenCV may keep one more than asked for
        order = np.argsort(-score, kind="stable")[: self._max_keypoints]
        # the centre of OpenCV's top-left pixel is (0, 0)
        pixels = np.array([keypoints[i].pt for i in order], np.float32) + 0.5
        root = torch.from_numpy(descriptors[order]).clamp(min=0)
        root = (root / root.sum(1, keepdim=True).clamp(min=1e-9)).sqrt()
        return LocalFeatures(torch.from_numpy(pixels), root, torch.from_numpy(score[order]))


ENCODER = OpencvSift
