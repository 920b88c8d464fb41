"""Whether results still are what was written: seals of artifacts, files of folders, and poses against their details."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scrflow.core.errors import ScrflowError
from scrflow.core.progress import track
from scrflow.scene.model import MODEL_DIGEST, WRITTEN
from scrflow.storage.artifact import folder_digest, read_json, read_stamp, sha256_file

_FORMS = (".h5", ".npz", ".safetensors", ".json")
# JSON of a form of its own: the training job, what hloc is told
_UNSEALED = ("train.json",)


def artifacts_in(path: Path) -> list[Path]:
    """The artifacts under a folder, or the file itself. ScrflowError where there is none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ScrflowError(f"{path}: no such file or folder")
    found = sorted(p for p in path.rglob("*") if p.suffix in _FORMS and p.name not in _UNSEALED and _shown(p, path))
    if not found:
        raise ScrflowError(f"{path}: no artifact in it ({' '.join(_FORMS)})")
    return found


def _shown(file: Path, under: Path) -> bool:
    return file.is_file() and not any(part.startswith(".") for part in file.relative_to(under).parts)


def faults(file: Path) -> Iterator[str]:
    """A line for each fault of an artifact and of the files that it speaks of."""
    try:
        stamp = read_stamp(file)
        if stamp.kind == "scene" and folder_digest(file.parent, file.name) != stamp.inputs.get("content"):
            yield f"{file.parent}: damaged: its files are not those that were written with {file.name}"
        if stamp.kind == "scene":
            yield from _submission_faults(file.parents[1])
        if file.name in WRITTEN:
            model = read_json(file, WRITTEN[file.name]).get(MODEL_DIGEST)
            if folder_digest(file.parent, file.name) != model:
                yield f"{file.parent}: damaged: its files are not those that were written with {file.name}"
        if stamp.kind == "localization":
            poses = file.with_name("poses.txt")
            if not poses.exists():
                yield f"{poses}: missing"
            elif sha256_file(poses) != read_json(file, stamp.kind).get("poses_sha256"):
                yield f"{poses}: not the poses that were written with {file.name}"
    except ScrflowError as error:
        yield str(error)


def _submission_faults(scene: Path) -> Iterator[str]:
    """SCENE/poses.txt has the poses of one of the methods; names may be without their folders there."""
    poses = scene / "poses.txt"
    methods = [path for path in sorted(scene.glob("*/poses.txt")) if path.with_name("localization.json").exists()]
    if poses.exists() and methods and _numbers(poses) not in map(_numbers, methods):
        yield f"{poses}: not the poses of any method in {scene}; delete it and run again"


def _numbers(path: Path) -> list[bytes]:
    """The seven numbers of each line, as written; the base name before them."""
    return [line.rsplit(b"/", 1)[-1] for line in path.read_bytes().splitlines()]


def print_verification(paths: list[Path]) -> bool:
    """Print the faults of everything under ``paths``; whether there are none."""
    files = list(dict.fromkeys(file for path in paths for file in artifacts_in(Path(path))))
    lines = [line for file in track(files, "verifying") for line in faults(file)]
    for line in lines:
        print(line)
    size = sum(file.stat().st_size for file in files) / 1e6
    print(
        f"{len(files)} artifacts, {size:.1f} MB: {'all as they were written' if not lines else f'{len(lines)} faults'}"
    )
    return not lines
