"""Frames of a video for a map: sharp ones, with a baseline between them.

The sharpest frame of each short window is a candidate. From one kept frame the next is the first candidate whose
keypoints have moved far enough, or a quarter as far where few of them match. A camera that only turns on the spot gives
frames without parallax; structure from motion says so later.
"""

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from scrflow.core.errors import ScrflowError
from scrflow.core.progress import meter
from scrflow.features.encoders.sift import Sift
from scrflow.scene.checks import check_unused, some
from scrflow.sfm.colmap_process import quiet_pycolmap
from scrflow.storage.artifact import atomic_dir

log = logging.getLogger("scrflow")
_GREY_SIDE = 480  # px, longer side of the picture that is judged
_KEYPOINTS = 300
_MIN_MATCHES = 15
_RATIO = 0.9  # of match_smnn, on small pictures with few keypoints
_NEIGHBOURS = 5  # candidates to each side that a candidate's sharpness is compared with
_CANDIDATES_A_FRAME = 8  # windows grow with the video: at most this many candidates for each frame that may be kept
_JPEG_QUALITY = 95
_MAX_BASELINE = 0.2  # beyond it neighbours may not match: a smaller step is taken where there is one
_MAX_SHARED = 0.6  # share of keypoints that match: with fewer a quarter of min_baseline is enough
_MIN_SHARPNESS = 0.5  # of the median sharpness (variance of the Laplacian) around


@dataclass(frozen=True)
class Picked:
    """What was kept of a video, and why the rest was not."""

    names: tuple[str, ...]
    size: tuple[int, int]  # width, height, px, turned upright
    decoded: int
    candidates: int
    blurred: int
    min_baseline: float


@dataclass(frozen=True, eq=False)
class _Candidate:
    index: int  # of the frame in the video
    time: float  # s
    sharpness: float
    keypoints: torch.Tensor  # [N, 2], over the diagonal
    descriptors: torch.Tensor  # [N, 128] f16


def pick_frames(
    video: Path, out: Path, max_frames: int = 300, min_baseline: float = 0.02, window_s: float = 0.2
) -> Picked:
    """Write the chosen frames of ``video`` as frame-INDEX.jpg, upright, and ``frames.csv`` to the new folder ``out``.

    ``min_baseline`` is the least median displacement of keypoints over the diagonal of the picture (0.02: a pan by
    2.5 % of the width); it is raised until there are at most ``max_frames``. The sharpest frame of ``window_s`` seconds
    is a candidate. ScrflowError for a damaged video, fewer than three frames to keep, or a used ``out``.
    """
    check_unused(out)
    candidates, decoded = _candidates(video, window_s, max_frames)
    sharp = _sharp(candidates)
    baseline = min_baseline
    kept, gaps = _walk(sharp, baseline, min_baseline)
    while len(kept) > max_frames and baseline < 1:
        baseline *= max(1.1, (len(kept) / max_frames) ** 0.5)
        kept, gaps = _walk(sharp, baseline, min_baseline)
    if len(kept) > max_frames:  # so many frames that have nothing in common
        kept = [kept[i] for i in np.linspace(0, len(kept) - 1, max_frames).astype(int)]
    if len(kept) < 3:
        raise ScrflowError(
            f"{video}: {len(kept)} of {decoded} frames differ enough; move the camera more, or lower --min-baseline"
        )
    names, size = _write(video, out, kept, decoded)
    if gaps:
        told = some([f"{a:.1f}-{b:.1f} s" for a, b in gaps], 8)
        log.warning("%s: %d jumps between kept frames, where SfM may come apart: %s", video, len(gaps), told)
    return Picked(names, size, decoded, len(candidates), len(candidates) - len(sharp), baseline)


def _candidates(video: Path, window_s: float, max_frames: int) -> tuple[list[_Candidate], int]:
    """The sharpest frame of each window, and how many frames there are."""
    quiet_pycolmap()
    sift = Sift(_KEYPOINTS, upright=True, first_octave=0)
    out: list[_Candidate] = []
    count = 0
    with _Video(video) as source, meter("reading frames", source.frames) as step:
        width_s = max(window_s, source.duration / (_CANDIDATES_A_FRAME * max_frames))

        def judged() -> Iterator[tuple[float, int, float, np.ndarray]]:
            nonlocal count
            for index, time, frame in source:
                count += 1
                grey = source.grey(frame)
                yield float(ndimage.laplace(grey.astype(np.float32)).var()), index, time, grey
                step("")

        for _, window in itertools.groupby(judged(), lambda frame: int(frame[2] / width_s)):
            sharpness, index, time, grey = max(window, key=lambda frame: frame[0])
            found = sift(torch.from_numpy(grey).float().div(255).expand(3, -1, -1))
            keypoints = found.keypoints_px / math.hypot(*grey.shape)
            out.append(_Candidate(index, time, sharpness, keypoints, found.descriptors.half()))
    return out, count


def _sharp(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """The candidates that are nearly as sharp as the median of those around them, or sharper."""
    sharpness = np.array([c.sharpness for c in candidates], np.float64)
    around = np.lib.stride_tricks.sliding_window_view(
        np.pad(sharpness, _NEIGHBOURS, constant_values=np.nan), 2 * _NEIGHBOURS + 1
    )
    sharp = sharpness >= _MIN_SHARPNESS * np.nanmedian(around, axis=1)
    return [c for c, good in zip(candidates, sharp, strict=True) if good]


def _walk(
    candidates: Sequence[_Candidate], shortest: float, asked: float
) -> tuple[list[_Candidate], list[tuple[float, float]]]:
    """Kept candidates, and the times of neighbours among them that are further apart than the longest baseline."""
    longest = max(_MAX_BASELINE, 2 * shortest)
    least_shared = _MAX_SHARED * asked / shortest
    kept, gaps = list(candidates[:1]), []
    before: _Candidate | None = None  # the candidate skipped last
    for candidate in candidates[1:]:
        moved, shared = _motion(kept[-1], candidate)
        if moved > longest and before is not None:
            kept.append(before)
            before = None
            moved, shared = _motion(kept[-1], candidate)
        if moved < shortest and (shared > least_shared or moved < shortest / 4):
            before = candidate
            continue
        if moved > longest:
            gaps.append((kept[-1].time, candidate.time))
        kept.append(candidate)
        before = None
    return kept, gaps


def _motion(a: _Candidate, b: _Candidate) -> tuple[float, float]:
    """Median displacement of the keypoints that match, over the diagonal (infinite where few do), and their share."""
    from kornia.feature import match_smnn

    fewer = min(len(a.keypoints), len(b.keypoints))
    if fewer < 2:
        return math.inf, 0.0
    _, pairs = match_smnn(a.descriptors.float(), b.descriptors.float(), _RATIO)
    if len(pairs) < _MIN_MATCHES:
        return math.inf, len(pairs) / fewer
    moved = (a.keypoints[pairs[:, 0]] - b.keypoints[pairs[:, 1]]).norm(dim=1)
    return float(moved.median()), len(pairs) / fewer


def _write(video: Path, out: Path, kept: Sequence[_Candidate], decoded: int) -> tuple[tuple[str, ...], tuple[int, int]]:
    by_index = {c.index: c for c in kept}
    rows, size = ["name,time_s,sharpness"], (0, 0)
    with atomic_dir(out) as folder, _Video(video) as source, meter("writing frames", len(kept)) as step:
        for index, _, frame in source:
            if index not in by_index:
                continue
            image = Image.fromarray(source.upright(frame))
            name, size = f"frame-{index:06d}.jpg", image.size
            image.save(folder / name, quality=_JPEG_QUALITY)
            rows.append(f"{name},{by_index[index].time:.3f},{by_index[index].sharpness:.1f}")
            step("")
            if len(rows) > len(kept):
                break
        (folder / "frames.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return tuple(row.split(",")[0] for row in rows[1:]), size


class _Video:
    """An opened video: iteration gives (index, seconds, frame) of every frame that decodes."""

    def __init__(self, path: Path):
        try:
            import av
        except ImportError:
            raise ScrflowError("reading videos needs PyAV: pip install av (requirements.txt has the version)") from None
        self._path, self._av = path, av
        if not path.is_file():
            raise ScrflowError(f"{path}: no such video file; correct the path")
        try:
            self._container = av.open(str(path))
        except (av.FFmpegError, OSError) as error:
            raise ScrflowError(f"{path}: not a video that FFmpeg reads ({_reason(error)}); convert it to MP4") from None
        if not self._container.streams.video:
            self._container.close()
            raise ScrflowError(f"{path}: no video stream in it; give another file")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.rate = float(self._stream.average_rate or self._stream.guessed_rate or 30)
        length = self._stream.duration
        self.duration = float(length * self._stream.time_base) if length else (self._container.duration or 0) / 1e6
        self.frames = max(1, self._stream.frames or round(self.duration * self.rate))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[tuple[int, float, Any]]:
        index, time, damaged = -1, 0.0, 0
        start = None
        try:
            for index, frame in enumerate(self._container.decode(self._stream)):
                at = frame.time if frame.time is not None else index / self.rate
                start = at if start is None else start
                time = at - start
                if frame.is_corrupt:
                    damaged += 1
                    continue
                yield index, time, frame
        except (self._av.FFmpegError, OSError) as error:
            raise ScrflowError(
                f"{self._path}: damaged after {time:.1f} s ({_reason(error)}); copy it again, or cut it there"
            ) from None
        if index < 0:
            raise ScrflowError(f"{self._path}: no frame in it could be decoded; copy it again, or convert it to MP4")
        if damaged:
            log.warning("%s: %d damaged frames skipped", self._path, damaged)
        if time < 0.9 * self.duration - 1:
            log.warning("%s: ends after %.1f of %.1f s; the file is cut off", self._path, time, self.duration)

    def grey(self, frame: Any) -> np.ndarray:
        """uint8 [h, w], small, as it is stored (not turned)."""
        scale = min(1.0, _GREY_SIDE / max(frame.width, frame.height))
        width, height = round(frame.width * scale), round(frame.height * scale)
        small = frame.reformat(width=width, height=height, format="gray", interpolation="AREA")
        return np.ascontiguousarray(small.to_ndarray())

    def upright(self, frame: Any) -> np.ndarray:
        """RGB uint8 [h, w, 3], square pixels, turned as the video's display matrix says."""
        width = round(frame.width * float(self._stream.sample_aspect_ratio or 1))
        rgb = frame.reformat(width=width, height=frame.height, format="rgb24", interpolation="BICUBIC").to_ndarray()
        turns, rest = divmod(frame.rotation, 90)
        if rest:
            raise ScrflowError(
                f"{self._path}: turned by {frame.rotation} degrees; only right angles are known: convert it"
            )
        return np.ascontiguousarray(np.rot90(rgb, turns))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
