"""HDF5 files of hloc, or maps, that lie, lead elsewhere or hold something else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from bad import Bad, changed, message, written
from untrusted_readers import NAMES

from scrflow.storage.checksum import write_checksum

FEATURES, MATCHES, GLOBAL, MAP = "hloc features", "hloc matches", "hloc descriptors", "baseline map"
KEYPOINTS, FOUND = f"{NAMES[0]}/keypoints", f"{NAMES[0]}/global_descriptor"
PAIR = "db-0.png/db-1.png/matches0"


def edited(reader: str, edit: Callable[[h5py.File, Path], object]):
    """The sound file of a reader, opened and changed; the edit may put other files into the folder."""

    def make(sound: dict[str, Path], folder: Path) -> Path:
        path = folder / sound[reader].name
        shutil.copy(sound[reader], path)
        with h5py.File(path, "r+") as f:
            edit(f, folder)
        write_checksum(path)  # whoever makes a bad file can do that too
        return path

    return make


def put(name: str, values: object, **how: object):
    """Another dataset under a name."""

    def edit(f: h5py.File, folder: Path) -> None:
        del f[name]
        f.create_dataset(name, data=values, **how) if values is not None else f.create_dataset(name, **how)

    return edit


def dropped(name: str):
    return lambda f, folder: f.__delitem__(name)


def external_link(name: str):
    def edit(f: h5py.File, folder: Path) -> None:
        with h5py.File(folder / "secret.h5", "w") as other:
            other["x"] = np.zeros((12, 2))
        del f[name]
        f[name] = h5py.ExternalLink(str(folder / "secret.h5"), "x")

    return edit


def soft_link(name: str, target: str):
    def edit(f: h5py.File, folder: Path) -> None:
        del f[name]
        f[name] = h5py.SoftLink(target)

    return edit


def external_storage(name: str, shape: tuple[int, ...]):
    """The numbers are the bytes of another file: /etc/passwd, say."""

    def edit(f: h5py.File, folder: Path) -> None:
        (folder / "secret.txt").write_bytes(b"secret--" * 100)
        del f[name]
        f.create_dataset(name, shape, "f4", external=[(str(folder / "secret.txt"), 0, h5py.h5f.UNLIMITED)])

    return edit


def virtual(name: str, shape: tuple[int, ...]):
    def edit(f: h5py.File, folder: Path) -> None:
        with h5py.File(folder / "secret.h5", "w") as other:
            other["x"] = np.zeros(shape, np.float32)
        layout = h5py.VirtualLayout(shape, "f4")
        layout[...] = h5py.VirtualSource(str(folder / "secret.h5"), "x", shape=shape)
        del f[name]
        f.create_virtual_dataset(name, layout)

    return edit


def huge(name: str, shape: tuple[int, ...]):
    """Declared, chunked, and never written."""
    return put(name, None, shape=shape, dtype="f4", chunks=tuple(min(1024, n) for n in shape))


def of_strings(f: h5py.File, folder: Path) -> None:
    del f[KEYPOINTS]
    f.create_dataset(KEYPOINTS, data=np.array([["a", "b"]], dtype=object), dtype=h5py.string_dtype())


def of_lists(f: h5py.File, folder: Path) -> None:
    del f[KEYPOINTS]
    f.create_dataset(KEYPOINTS, (12,), dtype=h5py.vlen_dtype(np.float32))


def of_records(f: h5py.File, folder: Path) -> None:
    del f[KEYPOINTS]
    f[KEYPOINTS] = np.zeros(12, [("x", "f4"), ("y", "f4")])


def added_huge(f: h5py.File, folder: Path) -> None:
    f.create_dataset("more", (1 << 40,), "f4", chunks=(1024,))


def zeros_in_few_bytes(f: h5py.File, folder: Path) -> None:
    """600 MB of zeros that gzip keeps in little."""
    del f[FOUND]
    f.create_dataset(FOUND, (150_000_000,), "f4", chunks=(1_500_000,), compression="gzip", compression_opts=1)
    f[FOUND][:1_500_000] = np.zeros(1_500_000, np.float32)


NAN = np.full((12, 2), np.nan)
CASES = [
    Bad("hloc: text in place of HDF5", FEATURES, written("f.h5", "keypoints"), "not an HDF5 file of local features"),
    Bad("hloc: empty file", GLOBAL, written("f.h5", b""), "not an HDF5 file of global descriptors"),
    Bad("hloc: cut off", FEATURES, changed(FEATURES, "", lambda b: b[: len(b) // 2]), "not an HDF5 file|damaged"),
    Bad(
        "hloc: HDF5's own bytes changed",
        FEATURES,
        changed(FEATURES, "", lambda b: b[:530] + b"\xff" * 99 + b[629:]),
        "not an HDF5 file|damaged",
    ),
    Bad(
        "hloc: link to another file",
        FEATURES,
        edited(FEATURES, external_link(KEYPOINTS)),
        "a link to .*secret",
    ),
    Bad("hloc: descriptor that is another file's", GLOBAL, edited(GLOBAL, external_link(FOUND)), "link to"),
    Bad("hloc: matches that are another file's", MATCHES, edited(MATCHES, external_link(PAIR)), "link to"),
    Bad(
        "hloc: numbers in another file",
        FEATURES,
        edited(FEATURES, external_storage(KEYPOINTS, (12, 2))),
        "has its numbers in another file; do not use",
    ),
    Bad(
        "hloc: virtual dataset of another file",
        FEATURES,
        edited(FEATURES, virtual(KEYPOINTS, (12, 2))),
        "has its numbers in another file; do not use",
    ),
    Bad(
        "hloc: soft link in a circle", FEATURES, edited(FEATURES, soft_link(KEYPOINTS, "/" + KEYPOINTS)), "is a link to"
    ),
    Bad("hloc: soft link to nothing", MATCHES, edited(MATCHES, soft_link("db-0.png", "/none")), "is a link to '/none'"),
    Bad(
        "hloc: 4 TB declared, nothing written",
        FEATURES,
        edited(FEATURES, huge(KEYPOINTS, (1 << 39, 2))),
        "declares 4398047 MB and has 0 MB",
    ),
    Bad("hloc: a shape beyond all integers", GLOBAL, edited(GLOBAL, huge(FOUND, (1 << 40, 1 << 40))), "declares .* MB"),
    Bad("hloc: bomb of zeros under gzip", GLOBAL, edited(GLOBAL, zeros_in_few_bytes), "declares 600 MB and has 0"),
    Bad("hloc: strings for numbers", FEATURES, edited(FEATURES, of_strings), "is of type object, expected numbers"),
    Bad("hloc: lists for numbers", FEATURES, edited(FEATURES, of_lists), "is of type object, expected numbers"),
    Bad("hloc: records for numbers", FEATURES, edited(FEATURES, of_records), "is of type .*expected numbers"),
    Bad("hloc: complex numbers", GLOBAL, edited(GLOBAL, put(FOUND, np.zeros(6, complex))), "is of type complex128"),
    Bad("hloc: a dataset without a shape", GLOBAL, edited(GLOBAL, put(FOUND, h5py.Empty("f4"))), "without a shape"),
    Bad("hloc: no keypoints of a photo", FEATURES, edited(FEATURES, dropped(KEYPOINTS)), "no keypoints of db/0.png"),
    Bad(
        "hloc: no descriptors of a photo", FEATURES, edited(FEATURES, dropped("db/1.png/descriptors")), "no descriptors"
    ),
    Bad("hloc: keypoints of three axes", FEATURES, edited(FEATURES, put(KEYPOINTS, np.zeros((2, 2, 2)))), "have shape"),
    Bad("hloc: keypoint not a number", FEATURES, edited(FEATURES, put(KEYPOINTS, NAN)), "a keypoint is not finite"),
    Bad(
        "hloc: descriptor not a number",
        FEATURES,
        edited(FEATURES, put("db/1.png/descriptors", np.full((8, 12), np.nan))),
        "a descriptor, a score or the uncertainty is not finite",
    ),
    Bad(
        "hloc: descriptors turned about",
        FEATURES,
        edited(FEATURES, put("db/1.png/descriptors", np.zeros((12, 8)))),
        r"expected descriptors \[dim, keypoints\]",
    ),
    Bad("hloc: image size of one number", FEATURES, edited(FEATURES, put("db/1.png/image_size", [3])), "image_size is"),
    Bad("hloc: global descriptor not a number", GLOBAL, edited(GLOBAL, put(FOUND, np.full(6, np.inf))), "not finite"),
    Bad("hloc: global descriptors of two lengths", GLOBAL, edited(GLOBAL, put(FOUND, np.zeros(7))), "has 6 dimensions"),
    Bad(
        "hloc: a match past the keypoints", MATCHES, edited(MATCHES, put(PAIR, np.full(12, 99))), "match these features"
    ),
    Bad(
        "hloc: matches of other keypoints",
        MATCHES,
        edited(MATCHES, put(PAIR, np.zeros(5, int))),
        "matches of 5 keypoints",
    ),
    Bad("hloc: matches of no known photo", MATCHES, edited(MATCHES, dropped("db-0.png")), "no pair of these 3 images"),
    Bad("baseline map: numbers in another file", MAP, edited(MAP, external_storage("xyz", (4, 3))), "in another file"),
    Bad("baseline map: a link out of it", MAP, edited(MAP, external_link("retrieval/codes")), "link to"),
    Bad("baseline map: 4 TB declared", MAP, edited(MAP, added_huge), "more declares 4398047 MB"),
    Bad(
        "baseline map: a code past the codebook",
        MAP,
        edited(MAP, put("retrieval/codes", np.full((3, 3), 9, np.uint8))),
        "has entry 9 of 3",
    ),
    Bad(
        "baseline map: an observation of no point",
        MAP,
        edited(MAP, put("point", np.full(5, 9, np.int32))),
        "none of the 4",
    ),
    Bad(
        "baseline map: a point not a number",
        MAP,
        edited(MAP, put("xyz", np.full((4, 3), np.nan, np.float32))),
        "finite",
    ),
    Bad("baseline map: names that are numbers", MAP, edited(MAP, put("names", np.arange(3))), "not a whole map"),
    Bad("baseline map: nothing to retrieve by", MAP, edited(MAP, dropped("retrieval")), "not a whole map"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_bad_hdf5(case, confined, sound, tmp_path):
    message(case, confined, sound, tmp_path)
