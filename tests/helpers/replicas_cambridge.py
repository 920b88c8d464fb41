"""A scene of Cambridge Landmarks in its layout, of demo photos (SYNTHETIC): lists of poses, VisualSFM's model, PNGs."""

from __future__ import annotations

from pathlib import Path

from nvm_replica import Replica, copy_photo, write_nvm

COUNT, MAPPING = 9, 6


def name(i: int) -> str:
    return f"seq{1 if i < MAPPING else 3}/frame{i + 1:05d}.png"


def write_list(path: Path, rep: Replica, images: range | list[int], digits: int = 6) -> None:
    lines = ["Visual Landmark Dataset V1", "ImageFile, Camera Position [X Y Z W P Q R]", ""]
    for i in images:
        values = [*rep.centres()[i], *rep.quaternions()[i]]
        lines.append(f"{name(i)} " + " ".join(f"{v:.{digits}f}" for v in values))
    path.write_text("\n".join(lines) + "\n")


def write_cambridge(folder: Path, rep: Replica) -> None:
    """``folder`` as an archive has it, of the first COUNT images of ``rep``."""
    for i, photo in enumerate(rep.photos):
        copy_photo(photo, folder / name(i))
    write_nvm(folder / "reconstruction.nvm", rep, [name(i).replace(".png", ".jpg") for i in range(COUNT)])
    write_list(folder / "dataset_train.txt", rep, range(MAPPING))
    write_list(folder / "dataset_test.txt", rep, range(MAPPING, COUNT))
