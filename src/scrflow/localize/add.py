"""``scrflow add``: new photos extend a map's landmarks and its index of mapping images, without training.

Each photo is localized by the map itself, or has a given pose in the map's frame. The photo's keypoints extend the
landmarks (scrflow.landmarks.extend). In a head's index the photo stands for the encoding of the mapping image whose
encoding localized it."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError

from scrflow.config import LandmarksConfig, TracksConfig
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import rays_from_pixels
from scrflow.core.parallel import mapped
from scrflow.core.progress import log, track
from scrflow.core.seeds import derived_seed
from scrflow.features.encoders import build_encoder
from scrflow.features.matching import photo_features
from scrflow.features.retrieval import ENTRIES, Retriever, decoded, learn_codebooks, quantised
from scrflow.landmarks.extend import NewPhoto, extended, new_tracks
from scrflow.localize.batch import cameras_of, photos_of
from scrflow.localize.group import CONFIDENT
from scrflow.localize.group import fits as agrees
from scrflow.localize.localizer import Localizer
from scrflow.localize.query import query_photo
from scrflow.map.file import Map, load_map
from scrflow.map.format import BOOKS, CODES, LANDMARK, VIEW, Tensors, check, pack, unpack
from scrflow.map.views import Views, reach_of
from scrflow.pipeline.stages import code_version
from scrflow.scene.colmap_model import View
from scrflow.scene.lists import read_poses
from scrflow.storage import artifact


@dataclass(frozen=True)
class Added:
    """What became of the photos."""

    added: tuple[str, ...]
    left_out: dict[str, str]  # name -> why
    new: int  # landmarks
    landmarks: int  # in all; 0 for a map without


@dataclass(frozen=True, eq=False)
class _Photo:
    """A photo that the map has localized, or why it is left out."""

    name: str
    reason: str | None = None
    new: NewPhoto | None = None  # None for a map without landmarks
    code: torch.Tensor | None = None  # [dim] retrieval feature
    encoding: int | None = None  # row of the mapping image whose encoding localized the photo
    pose: np.ndarray | None = None  # [3, 4]
    fits: bool | None = None  # whether the given pose fits the map's own; None: nothing to compare


def add_photos(
    map_path: Path,
    images: tuple[Path, ...],
    out: Path,
    camera: str | None = None,
    poses: Path | None = None,
    budget: tuple[str, int | str] | None = None,
    min_confidence: float = CONFIDENT,
    device: str | None = None,
    threads: int = 1,
) -> Added:
    """Write the map with the photos to ``out``, a new file. ``camera``: as for ``scrflow localize``; ``poses``: lines
    ``name qw qx qy qz tx ty tz`` in the map's frame, in place of localizing; ``budget``: ("count", N) or ("size",
    bytes) of all landmarks. The same call gives the same bytes with any ``threads``. ScrflowError if the map has
    nothing to extend, no photo can be added, or the poses are of another frame."""
    if out.exists():
        raise ScrflowError(f"{out}: exists already and is not overwritten; remove it or name another file")
    if out.suffix != ".safetensors":
        raise ScrflowError(f"{out}: a map's name ends with .safetensors; name it so")
    localizer = Localizer(load_map(map_path), device=device)
    map_ = localizer.map
    if map_.landmarks is None and map_.encoding is None:
        raise ScrflowError(f"{map_path}: has neither landmarks nor an index of mapping images; give a map with either")
    if not map_.config.thresholds and poses is None:
        raise ScrflowError(f"{map_path}: holds no thresholds, so no photo is known to be right; give --poses")
    if budget is not None and map_.landmarks is None:
        raise ScrflowError(f"{map_path}: has no landmarks; leave out --count and --size")
    limit = None if budget is None else _budget(map_.config.landmarks.landmarks, *budget)
    paths = photos_of(images)
    cameras, given = cameras_of(camera, list(paths)), None if poses is None else read_poses(poses)
    if given is not None and not given.keys() & paths.keys():
        raise ScrflowError(f"{poses}: no pose of any photo, first {next(iter(paths))}; name photos as IMAGES has them")
    adder = _Adder(localizer, given, min_confidence)

    def one(name: str) -> _Photo:
        return adder.photo(name, paths[name], cameras[name])

    found = list(track(mapped(one, list(paths), threads), "localizing", len(paths)))
    if given is not None:
        _check_frame(poses, found)
    left_out = {p.name: p.reason for p in found if p.reason is not None}
    photos = [p for p in found if p.reason is None]
    for name, reason in left_out.items():
        log.warning("%s: left out: %s", name, reason)
    if not photos:
        name, reason = next(iter(left_out.items()))
        raise ScrflowError(f"no photo can be added: {name}: {reason}; nothing is written")
    stored = artifact.read_safetensors(map_path, "map")
    stamp, metadata = artifact.read_stamp(map_path, "map"), artifact.read_safetensors_metadata(map_path)
    new, tracks = 0, None
    if map_.landmarks is not None:
        part = {k.removeprefix(LANDMARK): v for k, v in stored.items() if k.startswith(LANDMARK)}
        shown = [p.new for p in photos]
        settings = TracksConfig(features=map_.config.landmarks.features)
        tracks = new_tracks(shown, map_.landmarks, settings, map_.config.seed, threads)
        part, new = extended(part, shown, tracks, limit)
        stored |= {LANDMARK + k: v for k, v in part.items()}
    if map_.encoding is not None:
        stored |= _index(map_, stored, photos)
    if map_.views is not None:
        seen = [np.zeros((0, 3)) if p.new is None else map_.landmarks.xyz[p.new.landmark] for p in photos]
        if tracks is not None:
            own = np.split(tracks.xyz[tracks.point], tracks.start[1:-1])
            seen = [np.concatenate(both) for both in zip(seen, own, strict=True)]
        reach = np.array([reach_of(p.pose, xyz) for p, xyz in zip(photos, seen, strict=True)])
        views = map_.views.joined(Views.of(np.stack([p.pose for p in photos]), reach))
        stored |= {VIEW + k: v for k, v in views.tensors().items()}
    names = [*map_.names, *(p.name for p in photos)]
    check(map_.config, unpack(stored), len(names))
    digest = hashlib.sha256(
        "".join(f"{p.name} {artifact.sha256_file(paths[p.name])}\n" for p in photos).encode()
    ).hexdigest()
    inputs = {**stamp.inputs, "map": artifact.sha256_file(map_path)[:16], "photos": digest[:16]}
    made = artifact.Stamp("map", stamp.config, code_version("localize.add"), inputs)
    kept = {key: metadata[key] for key in ("format", "output_unit", "weights")}
    text = json.dumps(names, ensure_ascii=False, separators=(",", ":"))
    artifact.write_safetensors(out, stored, made, {**kept, "names": text})
    total = 0 if map_.landmarks is None else len(stored[LANDMARK + "codes"])
    return Added(tuple(p.name for p in photos), left_out, new, total)


class _Adder:
    """Localizes photos and finds what the map needs of them."""

    def __init__(self, localizer: Localizer, given: dict[str, np.ndarray] | None, least: float):
        self._localizer, self._given, self._least = localizer, given, least
        part = localizer.map.config.landmarks
        self._features = None if part is None else part.features
        self._encoder = None if part is None else build_encoder(part.features.extractor, localizer.device)

    def photo(self, name: str, path: Path, camera: str | None) -> _Photo:
        if name in self._localizer.map.names:
            return _Photo(name, "the map has a photo of this name already")
        try:
            photo, taken = query_photo(path, camera)
        except ScrflowError as error:
            return _Photo(name, str(error))
        if taken is None:
            return _Photo(name, "its focal length is unknown; give --camera")
        if self._given is not None and name not in self._given:
            return _Photo(name, "it has no line in --poses")
        localizer = self._localizer
        features = localizer.features(photo, taken)
        found = localizer.localize_features(features)
        sure = found.cam_from_world is not None and (found.confidence is None or found.confidence >= self._least)
        pose, fits = found.cam_from_world, None
        if self._given is not None:
            pose = self._given[name]
            fits = agrees(pose, found, localizer.agreement(found)[2].threshold_px) if sure else None
            if fits is False:
                return _Photo(name, "its given pose is not that by which the map sees it", fits=False)
        elif not sure:
            least = f"its pose has a confidence of {found.confidence:.2f}, {self._least:g} is needed"
            return _Photo(name, found.reason or least)
        encoding = None
        if localizer.map.encoding is not None:
            encoding = localizer.map.names.index(found.hypothesis) if sure and found.hypothesis else None
            if encoding is None and self._features is None:
                return _Photo(name, "the head does not localize it, so no encoding is known for it", fits=fits)
            if encoding is None:
                encoding = int(localizer.map.retriever.search(features.descriptor, 1)[0][0])
        new = None
        if self._features is not None:
            full = photo_features(photo, self._encoder, self._features)
            # the keypoints of the localizer's view: in some corners a lens's distortion has no inverse
            full = full.only(np.isfinite(rays_from_pixels(taken, full.pixels)).all(1))
            new = NewPhoto(View(name, taken, pose), full, *localizer.landmarks.seen(features.landmarks, pose).T)
        return _Photo(name, None, new, features.descriptor, encoding, pose, fits)


def _check_frame(poses: Path, found: list[_Photo]) -> None:
    """ScrflowError unless the map's own poses confirm that the given ones are in its frame."""
    compared = [p.fits for p in found if p.fits is not None]
    if not compared:
        raise ScrflowError(
            f"{poses}: the map localizes none of the photos, so nothing shows that the poses are in its frame; add "
            "photos of the map's place too"
        )
    if 2 * sum(compared) < len(compared):
        raise ScrflowError(
            f"{poses}: in another frame than the map: it localizes {len(compared)} of the photos, and {sum(compared)} "
            "of them are where the poses say; give cam_from_world in the map's frame"
        )


def _budget(config: LandmarksConfig, key: str, value: int | str) -> LandmarksConfig:
    try:
        return LandmarksConfig.model_validate({**config.model_dump(), "count": None, "size": None, key: value})
    except ValidationError:
        raise ScrflowError(f"--{key} {value}: cannot be read; give a number, as 20000, or of bytes, as 300kB") from None


def _index(map_: Map, stored: Tensors, photos: list[_Photo]) -> Tensors:
    """The index of mapping images with the photos, in the map's number formats. Codebooks of fewer than 256 images are
    their own features, and new ones become entries too; learnt codebooks stay."""
    features = torch.stack([p.code for p in photos])
    books, codes = map_.retriever.codebooks, map_.retriever.codes
    every = torch.cat([map_.encoding, map_.encoding[[p.encoding for p in photos]]])
    out = {"encoding": every, BOOKS: books}
    if books.shape[1] < ENTRIES:
        old = decoded(Retriever(map_.names, books, codes))
        both = torch.cat([old, torch.nn.functional.pad(features, (0, old.shape[1] - features.shape[1]))])
        out[BOOKS] = learn_codebooks(both.numpy(), len(books), derived_seed(map_.config.seed, "map.pq") % (1 << 31))
        return pack({**out, CODES: quantised(both, out[BOOKS])}, map_.config.map)
    return pack({"encoding": every, CODES: torch.cat([codes, quantised(features, books)])}, map_.config.map)
