"""The global descriptor of a query, by the retrieval feature that a map was made with."""

from __future__ import annotations

from collections.abc import Mapping

import pycolmap
import torch
from PIL import Image

from scrflow.config import BaselineMapStage, ExtractorConfig
from scrflow.core.errors import ScrflowError
from scrflow.features.encoders import build_encoder
from scrflow.features.retrieval.describe import build_describer
from scrflow.features.views import encode_view


class QueryDescriber:
    """Builds all networks at once. ``description``: what describes a photo, of the map's Retriever."""

    def __init__(self, config: BaselineMapStage, description: Mapping[str, torch.Tensor]):
        self._describer = build_describer(config.retrieval, description, config.retrieval_parts)
        self._encoders = {
            part.extractor.model_dump_json(): build_encoder(
                part.extractor.model_copy(update={"max_keypoints": part.retrieval.keypoints})
            )
            for part in (config.retrieval, *config.retrieval_parts)
            if part.extractor is not None
        }

    def __call__(self, photo: Image.Image, camera: pycolmap.Camera) -> torch.Tensor:
        """Descriptor [dim] of a photo; ScrflowError where descriptors come from a file."""
        if self._describer is None:
            raise ScrflowError("this map's retrieval feature comes from a file: a query needs its descriptor too")

        def local(extractor: ExtractorConfig, keypoints: int) -> torch.Tensor:
            encoder = self._encoders[extractor.model_dump_json()]
            return encode_view(photo, camera, encoder, extractor.short_side, keypoints).descriptors

        return self._describer(photo, local)
