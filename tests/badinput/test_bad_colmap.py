"""COLMAP models that are cut off or lie about their counts: pycolmap alone hangs, takes gigabytes, or reads rubbish."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from bad import Bad, changed, message


def binary(name: str, change: Callable[[bytes], bytes]):
    return changed("colmap", f"{name}.bin", change)


def counted(count: int):
    """Another number of records."""
    return lambda b: struct.pack("<Q", count) + b[8:]


def replaced(at: int, form: str, *values: float):
    return lambda b: b[:at] + struct.pack(form, *values) + b[at + struct.calcsize(form) :]


def text(name: str, change: Callable[[bytes], bytes]):
    """The model in text form."""

    def make(sound, folder):
        import shutil

        out = folder / "model"
        shutil.copytree(sound["colmap"].with_name("colmap-text"), out)
        (out / f"{name}.txt").write_bytes(change((out / f"{name}.txt").read_bytes()))
        return out

    return make


def without(name: str):
    def make(sound, folder):
        out = changed("colmap", name, bytes)(sound, folder)
        (out / name).unlink()
        return out

    return make


_IMAGE_NAME = 8 + 4 + 7 * 8 + 4
_POINTS = _IMAGE_NAME + len("db/0.png\0")
_TRACK = 8 + 8 + 24 + 3 + 8
CASES = [
    *(
        Bad(f"COLMAP: {name}.bin {what}", "colmap", binary(name, change), told)
        for name in ("cameras", "images", "points3D", "rigs", "frames")
        for what, change, told in (
            ("cut off", lambda b: b[: 2 * len(b) // 3], rf"{name}\.bin: damaged: ends within"),
            ("that claims 2^60 records", counted(1 << 60), rf"{name}\.bin: damaged: ends within"),
            ("of 5 bytes", lambda b: b[:5], rf"{name}\.bin: damaged: under 8 bytes"),
            ("with more behind it", lambda b: b + b"\0" * 9, rf"{name}\.bin: damaged: 9 bytes after"),
        )
    ),
    Bad("COLMAP: no such camera model", "colmap", binary("cameras", replaced(12, "<i", 999)), "no camera model 999"),
    Bad(
        "COLMAP: a name without an end",
        "colmap",
        binary("images", lambda b: b[:_IMAGE_NAME] + b"a" * 10_000),
        "its name has no end",
    ),
    Bad(
        "COLMAP: an image of 2^60 keypoints",
        "colmap",
        binary("images", replaced(_POINTS, "<Q", 1 << 60)),
        r"images\.bin: damaged: ends within image 1",
    ),
    Bad(
        "COLMAP: a point with a track of 2^31",
        "colmap",
        binary("points3D", replaced(_TRACK, "<Q", 1 << 31)),
        r"points3D\.bin: damaged: ends within point 1",
    ),
    Bad(
        "COLMAP: an image of no camera",
        "colmap",
        binary("images", replaced(_IMAGE_NAME - 4, "<I", 77)),
        "COLMAP model cannot be read",
    ),
    Bad(
        "COLMAP: a point that no image has",
        "colmap",
        binary("images", replaced(_POINTS + 24, "<q", 99)),
        "COLMAP model cannot be read",
    ),
    Bad("COLMAP: a track of no image", "colmap", binary("points3D", replaced(_TRACK + 8, "<I", 99)), "cannot be read"),
    Bad("COLMAP: images.bin is missing", "colmap", without("images.bin"), r"images\.bin: file of the COLMAP model is"),
    Bad("COLMAP: frames.bin is missing", "colmap", without("frames.bin"), "COLMAP model cannot be read"),
    *(
        Bad(f"COLMAP: {name}.txt {what}", "colmap", text(name, change), "COLMAP model cannot be read")
        for name in ("cameras", "images", "points3D")
        for what, change in (
            ("of other words", lambda b: b"hello world\nfoo bar\n"),
            ("of random bytes", lambda b: bytes(range(256))),
            ("with every line twice", lambda b: b + b"\n".join(r for r in b.split(b"\n") if not r.startswith(b"#"))),
        )
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_bad_colmap(case, confined, sound, tmp_path):
    message(case, confined, sound, tmp_path)
