"""map.safetensors: ONE file with all that localizing a query needs. Reading it executes nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from scrflow.artifacts import Stamp, read_safetensors, read_safetensors_metadata, read_stamp, write_safetensors
from scrflow.codeversion import code_version
from scrflow.config import MapStage
from scrflow.errors import ScrflowError
from scrflow.head import Head
from scrflow.pca import Pca, load_pca
from scrflow.progress import log
from scrflow.retrieval import Retriever
from scrflow.train import read_centres, read_global_encoding, standardised


@dataclass(frozen=True)
class Map:
    """A map in memory, in float32."""

    config: MapStage
    names: tuple[str, ...]  # mapping images
    head: Head
    pca: Pca
    encoding: torch.Tensor | None  # [images, D]
    retriever: Retriever | None
    retrieval_keypoints: int  # of a photo's best local descriptors, that its retrieval feature aggregates
    centres: torch.Tensor | None = None  # [K, D]: the clusters one of which is a query's encoding


def write_map(
    config: MapStage, scene: Path, head: Path, pca: Path, encoding: Path | None, retrieval: Path | None, out: Path
) -> None:
    """Gather head, PCA, global encodings and retrieval model into one file.

    Raises ScrflowError when the parts are of different mapping images.
    """
    from scrflow.scene.model import load_scene

    names = tuple(v.name for v in load_scene(scene).mapping)
    projection = load_pca(pca)
    tensors = {f"head.{k}": v for k, v in read_safetensors(head, "head").items()}
    tensors |= {"pca.mean": projection.mean, "pca.components": projection.components}
    metadata = {
        "config": config.model_dump_json(),
        "names": json.dumps(names),
        **{key: read_safetensors_metadata(head)[key] for key in ("dim_in", "output_unit")},
    }
    inputs: dict[str, Path] = {"scene": scene / "scene.json", "head": head, "pca": pca}
    if encoding is not None and config.clustered:
        tensors["centres"] = read_centres(encoding)
        inputs["encoding"] = encoding
    elif encoding is not None and not config.own_encoding:
        tensors["encoding"] = standardised(read_global_encoding(encoding, names)).half()
        inputs["encoding"] = encoding
    if retrieval is not None:
        part, described = read_safetensors(retrieval, "retrieval"), read_safetensors_metadata(retrieval)
        retriever = Retriever.from_tensors(part, described)
        if retriever.names != names:
            raise ScrflowError(f"{retrieval}: of other mapping images than {scene}; delete it and run again")
        tensors |= {f"retrieval.{k}": v for k, v in retriever.tensors().items()}
        metadata |= retriever.metadata() | {"retrieval_keypoints": described.get("keypoints", "0")}
        inputs["retrieval"] = retrieval
    write_safetensors(out, tensors, Stamp.make("map", config, code_version("mapfile"), **inputs), metadata)
    log.info("map: %.2f MB", out.stat().st_size / 1e6)


def load_map(path: Path) -> Map:
    """The map of a file. ScrflowError when the file is damaged, of another version, or not a map."""
    stamp = read_stamp(path, "map")
    tensors, metadata = read_safetensors(path, "map"), read_safetensors_metadata(path)
    config = MapStage.model_validate(stamp.config)

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    try:
        state = {k: v.float() for k, v in part("head.").items()}
        head = Head(int(metadata["dim_in"]), config.head, state["decoder.centres"], float(metadata["output_unit"]))
        head.load_state_dict(state, strict=True)
        retriever = None
        if config.retrieval is not None:
            retriever = Retriever.from_tensors(part("retrieval."), metadata)
        encoding = tensors["encoding"].float() if "encoding" in tensors else None
        return Map(
            config,
            tuple(json.loads(metadata["names"])),
            head.eval(),
            Pca(tensors["pca.mean"], tensors["pca.components"]),
            encoding,
            retriever,
            int(metadata.get("retrieval_keypoints", "0")),
            tensors["centres"] if config.clustered else None,
        )
    except (KeyError, RuntimeError, ValueError) as error:
        raise ScrflowError(f"{path}: not a complete map ({str(error).splitlines()[0]}); write it again") from None
