"""Files that ``make fuzz`` found a reader to fall over, each as it was found, or made smaller."""

from __future__ import annotations

import base64
import struct

import pytest
from bad import Bad, changed, message, written
from test_bad_archives import zipped

# torch's own unpickler raises an IndexError
_UNPICKLER = base64.b64decode("cmdoLl91AGVpZ2h0cy9kYXRhW3BrbHJnaC5fdQAAAAACF1pagAIAKFgGCIU94wAZAA==")
_TABLE = b"path\tsha256\turl\na.jpg\t0000\xd0\xce0000\thttps://example.org/a.jpg\n"


def nameless() -> bytes:
    """A zip whose member is called nothing: the letter of its name belongs to the extra field."""
    data = bytearray(zipped([("a", b"x")]))
    for signature, at in ((b"PK\x03\x04", 26), (b"PK\x01\x02", 28)):
        place = data.index(signature) + at
        data[place : place + 4] = struct.pack("<HH", 0, 1)
    return bytes(data)


def not_utf8(data: bytes) -> bytes:
    assert b".png\0" in data
    return data.replace(b".png\0", b".p\x90g\0", 1)


def before_the_start(data: bytes) -> bytes:
    """The directory of a zip said to be larger than the file."""
    end = data.rindex(b"PK\x05\x06") + 12
    return data[:end] + struct.pack("<I", len(data) + 100) + data[end + 4 :]


CASES = [
    Bad(
        "COLMAP: an image's name that is no UTF-8", "colmap", changed("colmap", "images.bin", not_utf8), "is not UTF-8"
    ),
    Bad("zip: a member without a name", "archive", written("bad.zip", nameless()), "archive"),
    Bad("zip: a directory before the file's start", "archive", changed("archive", "", before_the_start), "archive"),
    Bad("weights: a pickle that ends too soon", "weights", written("w.pth", _UNPICKLER), "no checkpoint of tensors"),
    Bad(
        "download table: bytes that are no UTF-8",
        "download table",
        written("t.tsv", _TABLE),
        r"cannot be read \(not UTF-8",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_found_by_fuzzing(case, confined, sound, tmp_path):
    message(case, confined, sound, tmp_path)
