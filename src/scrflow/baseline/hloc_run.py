"""The calls into hloc, in its own environment (envs/hloc.yaml): the only module that imports it.

Written for version 1.5 at commit c13273bd0ecc2917a35910fd843712a1c6243193. As that environment has few of our packages,
this module imports nothing else but the standard library.
"""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from scrflow.core.errors import ScrflowError


def extract_features(images: Path, configuration: str, out: Path) -> None:
    """Local features or global descriptors of all listed photos to the HDF5 ``out``, as float32: float16 would round
    keypoints beyond 1024 px to whole pixels."""
    listed = _read(images)
    hloc = _module("extract_features")
    names = [*listed["mapping"], *listed["queries"]]
    conf = _configuration(hloc, configuration, "features")
    hloc.main(conf, Path(listed["image_root"]), as_half=False, image_list=names, feature_path=out)


def pairs_from_retrieval(images: Path, descriptors: Path, neighbours: int, out: Path) -> None:
    """Each mapping image with its ``neighbours`` most similar ones, as lines of a text file. ScrflowError for names
    with a blank, at which hloc splits the lines."""
    mapping = _read(images)["mapping"]
    blank = [name for name in mapping if any(c.isspace() for c in name)]
    if blank:
        raise ScrflowError(
            f"{images}: {len(blank)} image names have a blank, first {blank[0]!r}, and hloc splits its lists of pairs "
            "there; rename them, or use SIFT (sfm.features: sift)"
        )
    hloc = _module("pairs_from_retrieval")
    hloc.main(descriptors, out, num_matched=min(neighbours, len(mapping) - 1), query_list=mapping, db_list=mapping)


def match_features(features: Path, pairs: Path, configuration: str, out: Path) -> None:
    """Matches of the pairs to the HDF5 ``out``."""
    hloc = _module("match_features")
    hloc.main(_configuration(hloc, configuration, "matcher"), pairs, features, matches=out)


def triangulate(images: Path, reference: Path, pairs: Path, features: Path, matches: Path, out: Path) -> None:
    """3D points on the poses of the COLMAP model ``reference``: a COLMAP model in the folder ``out``. It needs pycolmap
    3.13: 4.2 ignores hloc's two-view geometries, and no point is triangulated (docs/hloc.md)."""
    root = Path(_read(images)["image_root"])
    hloc = _module("triangulation")
    model = hloc.main(out, reference, root, pairs, features, matches)
    if model is None or model.num_points3D() == 0:
        raise ScrflowError(f"{out}: hloc triangulated no point; check that poses and intrinsics belong to these images")


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"hloc.{name}")
    except ModuleNotFoundError as error:
        if error.name != "hloc":
            raise
        raise ScrflowError(
            "hloc is not installed: let Snakemake create its environment (--sdm conda), or see docs/hloc.md"
        ) from None


def _configuration(module: Any, name: str, key: str) -> dict[str, Any]:
    if name not in module.confs:
        raise ScrflowError(f"config.yaml: key hloc.{key}: hloc has no {name!r}; there are {', '.join(module.confs)}")
    return module.confs[name]


def _read(images: Path) -> dict[str, Any]:
    try:
        listed = json.loads(Path(images).read_text(encoding="utf-8"))
        return {key: listed[key] for key in ("image_root", "mapping", "queries")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ScrflowError(f"{images}: not a list of images ({error!r}); delete it and run again") from None
