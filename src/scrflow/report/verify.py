"""``scrflow verify``: whether results are what was written: checksums of artifacts, files of folders, poses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scrflow.core.errors import ScrflowError
from scrflow.core.progress import track
from scrflow.scene.colmap_model import MODEL_DIGEST, WRITTEN
from scrflow.storage.artifact import FORMS, folder_digest, read_json, read_stamp, sha256_file

_NO_ARTIFACTS = ("train.json",)  # the training job


def print_verification(paths: list[Path]) -> bool:
    """Print the faults of everything under ``paths``; whether there are none."""
    files = list(dict.fromkeys(file for path in paths for file in _artifacts_in(Path(path))))
    lines = [line for file in track(files, "verifying") for line in _faults(file)]
    for line in lines:
        print(line)
    size = sum(file.stat().st_size for file in files) / 1e6
    print(f"{len(files)} artifacts, {size:.1f} MB: {f'{len(lines)} faults' if lines else 'all as they were written'}")
    return not lines


def _artifacts_in(path: Path) -> list[Path]:
    """The artifacts under a folder, or the file itself. ScrflowError if there is none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ScrflowError(f"{path}: no such file or folder")
    files = [p for p in path.rglob("*") if p.suffix in FORMS and p.name not in _NO_ARTIFACTS and p.is_file()]
    found = sorted(p for p in files if not any(part.startswith(".") for part in p.relative_to(path).parts))
    if not found:
        raise ScrflowError(f"{path}: no artifact in it ({' '.join(FORMS)})")
    return found


def _faults(file: Path) -> Iterator[str]:
    """A line for each fault of an artifact and of the files that it describes."""
    try:
        stamp = read_stamp(file)
        digest = stamp.inputs.get("content") if stamp.kind == "scene" else None
        if file.name in WRITTEN:
            digest = read_json(file, WRITTEN[file.name]).get(MODEL_DIGEST)
        if (stamp.kind == "scene" or file.name in WRITTEN) and folder_digest(file.parent, file.name) != digest:
            yield f"{file.parent}: damaged: its files are not those that were written with {file.name}"
        if stamp.kind == "scene":
            yield from _submission_faults(file.parents[1])
        if stamp.kind == "localization":
            poses = file.with_name("poses.txt")
            if not poses.exists():
                yield f"{poses}: missing"
            elif sha256_file(poses) != read_json(file, stamp.kind).get("poses_sha256"):
                yield f"{poses}: not the poses that were written with {file.name}"
    except ScrflowError as error:
        yield str(error)


def _submission_faults(scene: Path) -> Iterator[str]:
    """SCENE/poses.txt has the poses of one of the methods; names may lack their folders there."""
    poses = scene / "poses.txt"
    methods = [path for path in sorted(scene.glob("*/poses.txt")) if path.with_name("localization.json").exists()]
    if poses.exists() and methods and _lines(poses) not in map(_lines, methods):
        yield f"{poses}: not the poses of any method in {scene}; delete it and run again"


def _lines(poses: Path) -> list[bytes]:
    return [line.rsplit(b"/", 1)[-1] for line in poses.read_bytes().splitlines()]
