"""COLMAP models that are cut off or lie about their counts: pycolmap alone hangs, takes gigabytes, or reads rubbish."""

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from bad import Bad, changed, check_refused


def binary(name: str, change: Callable[[bytes], bytes | None]):
    return changed("colmap", f"{name}.bin", change)


def packed(at: int, form: str, value: float):
    return lambda b: b[:at] + struct.pack(form, value) + b[at + struct.calcsize(form) :]


def text(name: str, change: Callable[[bytes], bytes]):
    """The model in text form."""

    def make(sound: dict[str, Path], folder: Path) -> Path:
        out = shutil.copytree(sound["colmap"].with_name("colmap-text"), folder / "model")
        (out / f"{name}.txt").write_bytes(change((out / f"{name}.txt").read_bytes()))
        return out

    return make


def not_utf8(data: bytes) -> bytes:
    assert b".png\0" in data
    return data.replace(b".png\0", b".p\x90g\0", 1)


_NAME = 8 + 4 + 7 * 8 + 4
_POINTS = _NAME + len("db/0.png\0")
_TRACK = 8 + 8 + 24 + 3 + 8
CASES = [
    *(
        Bad(f"{name}.bin {what}", "colmap", binary(name, change), rf"{name}\.bin: damaged")
        for name, what, change in (
            ("cameras", "cut off", lambda b: b[: 2 * len(b) // 3]),
            ("images", "that claims 2^60 records", packed(0, "<Q", 1 << 60)),
            ("rigs", "with more behind it", lambda b: b + b"\0" * 9),
            ("images", "with an image of 2^60 keypoints", packed(_POINTS, "<Q", 1 << 60)),
            ("points3D", "with a track of 2^31", packed(_TRACK, "<Q", 1 << 31)),
        )
    ),
    Bad("no such camera model", "colmap", binary("cameras", packed(12, "<i", 999)), "no camera model 999"),
    Bad("a name without an end", "colmap", binary("images", lambda b: b[:_NAME] + b"a" * 10_000), "name has no end"),
    Bad("a name that is no UTF-8", "colmap", binary("images", not_utf8), "UTF-8"),
    Bad("an image of no camera", "colmap", binary("images", packed(_NAME - 4, "<I", 77)), "cannot be read"),
    Bad("a point that no image has", "colmap", binary("images", packed(_POINTS + 24, "<q", 99)), "cannot be read"),
    Bad("images.bin is missing", "colmap", binary("images", lambda b: None), r"images\.bin: file of the COLMAP model"),
    Bad("text of random bytes", "colmap", text("images", lambda b: bytes(range(256))), "cannot be read"),
    Bad("text with points twice", "colmap", text("points3D", lambda b: b + b), "cannot be read"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_colmap(case, sound, tmp_path):
    check_refused(case, sound, tmp_path)
