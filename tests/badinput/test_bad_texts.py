"""Text, JSON and tables that are damaged, or that another tool would not have written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from bad import Bad, changed, message, written

from scrflow.storage.checksum import write_checksum

NVM, LIST, POSES, SCENE = "nvm", "query list", "poses", "scene"
ONE = "a.png 1 0 0 0 0 0 0\n"


def in_folder(reader: str, name: str, change: Callable[[str], str]):
    return changed(reader, name, lambda data: change(data.decode()).encode())


def transforms(**over: object):
    """transforms.json with other values; those of the first frame under ``frame``."""

    def change(text: str) -> str:
        values = json.loads(text)
        values["frames"][0].update(over.pop("frame", {}))
        return json.dumps({**values, **over})

    return in_folder("nerfstudio", "transforms.json", change)


def scene(change: Callable[[dict], object]):
    """scene.json changed and sealed anew."""

    def make(sound: dict[str, Path], folder: Path) -> Path:
        shutil.copytree(sound[SCENE], folder / "scene")
        path = folder / "scene/scene.json"
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values, indent=1) + "\n")
        write_checksum(path)
        return folder / "scene"

    return make


def old_to_new(reader: str, old: str, new: str, name: str = ""):
    def change(data: bytes) -> bytes:
        assert old.encode() in data, old
        return data.replace(old.encode(), new.encode(), 1)

    return changed(reader, name, change)


CASES = [
    Bad("poses: random bytes", POSES, written("p.txt", bytes(range(256)) * 4), "cannot be read as text"),
    Bad(
        "poses: a word for a number",
        POSES,
        written("p.txt", ONE.replace("0", "zero", 1)),
        "1: a.png: expected",
    ),
    Bad("poses: not a number", POSES, written("p.txt", ONE.replace("0", "nan", 1)), "with finite numbers"),
    Bad("poses: beyond all numbers", POSES, written("p.txt", ONE.replace("0", "1e999", 1)), "with finite numbers"),
    Bad(
        "poses: a quaternion of nothing",
        POSES,
        written("p.txt", "a.png 0 0 0 0 1 2 3\n"),
        "line 1: expected|quaternion",
    ),
    Bad("poses: a quaternion all but nothing", POSES, written("p.txt", "a.png 1e-200 0 0 0 1 2 3\n"), "line 1"),
    Bad("poses: a line twice", POSES, written("p.txt", ONE + ONE), "line 2: a.png: listed twice"),
    Bad("poses: cut off", POSES, changed(POSES, "", lambda b: b[:-9]), "line 3: .*expected"),
    Bad("query list: no such camera model", LIST, written("q.txt", "a.png FISH 32 24 30\n"), "no COLMAP camera model"),
    Bad("query list: size of letters", LIST, written("q.txt", "a.png PINHOLE 3x 24 30 30 16 12\n"), "line 1: "),
    Bad("query list: a number too few", LIST, written("q.txt", "a.png PINHOLE 32 24 30 30 16\n"), "takes parameters"),
    Bad("query list: width of 2^80", LIST, written("q.txt", f"a.png SIMPLE_PINHOLE {2**80} 24 30 16 12\n"), "line 1: "),
    Bad("query list: width below zero", LIST, written("q.txt", "a.png SIMPLE_PINHOLE -5 24 30 16 12\n"), "line 1: "),
    Bad(
        "query list: width of 5 000 digits", LIST, written("q.txt", f"a.png PINHOLE {'9' * 5000} 1 1 1 1 1"), "line 1: "
    ),
    Bad("query list: a folder in its place", LIST, lambda sound, folder: folder, "cannot be read as text"),
    Bad(
        "cameras of photos: a photo is left out",
        "cameras of photos",
        written("c.txt", "x.png PINHOLE 9 9 9 9 9 9\n"),
        "no line of 3 of 3 photos",
    ),
    Bad("pairs: three names in a line", "pairs", written("p.txt", "a b c\n"), "expected two image names, found 3"),
    Bad("NVM: another header", NVM, old_to_new(NVM, "NVM_V3", "NVM_V4"), "expected 'NVM_V3'"),
    Bad("NVM: claims 10^18 cameras", NVM, old_to_new(NVM, "\n3\n", f"\n{10**18}\n"), "line|ends before"),
    Bad("NVM: claims 10^15 points", NVM, old_to_new(NVM, "\n2\n", f"\n{10**15}\n"), "line 11|ends after"),
    Bad("NVM: a count of 5 000 digits", NVM, old_to_new(NVM, "\n3\n", f"\n{'9' * 5000}\n"), "number of cameras"),
    Bad(
        "NVM: a point of 10^9 measurements",
        NVM,
        old_to_new(NVM, "1 2 3 2 0 0", "1 2 3 1000000000 0 0"),
        "line 9: expected",
    ),
    Bad("NVM: a point of -1 measurements", NVM, old_to_new(NVM, "1 2 3 2 0 0", "1 2 3 -1 0 0"), "line 9: expected"),
    Bad(
        "NVM: a measurement in no image",
        NVM,
        old_to_new(NVM, "2 0 0 0 0 1 0 6 0", "2 0 0 0 0 7 0 6 0"),
        "names image 7 of 3",
    ),
    Bad("NVM: a focal length not a number", NVM, old_to_new(NVM, "0.png 30", "0.png nan"), "line 4: expected a camera"),
    Bad(
        "NVM: a quaternion of nothing",
        "nvm scene",
        old_to_new("nvm scene", "30 1 0 0 0", "30 0 0 0 0", "model.nvm"),
        "quaternion has length 0",
    ),
    Bad(
        "NVM: a focal length of nothing",
        "nvm scene",
        old_to_new("nvm scene", "0.png 30", "0.png 0", "model.nvm"),
        "focal",
    ),
    Bad("NVM: cut off", NVM, changed(NVM, "", lambda b: b[: len(b) // 2]), "model.nvm: "),
    Bad("NVM: random bytes", NVM, written("m.nvm", b"NVM_V3\n3\n" + bytes(range(256)) * 20), "m.nvm: "),
    Bad(
        "NVM: names of folders above",
        "nvm scene",
        old_to_new("nvm scene", "db/0.png", "../../../etc/passwd", "model.nvm"),
        "image is|leads out",
    ),
    Bad(
        "nerfstudio: 100 000 brackets",
        "nerfstudio",
        in_folder("nerfstudio", "transforms.json", lambda t: "[" * 100_000),
        "not JSON",
    ),
    Bad("nerfstudio: no JSON", "nerfstudio", in_folder("nerfstudio", "transforms.json", lambda t: t[:50]), "not JSON"),
    Bad(
        "nerfstudio: random bytes",
        "nerfstudio",
        changed("nerfstudio", "transforms.json", lambda b: b"\xff\xfe{"),
        "not JSON",
    ),
    Bad(
        "nerfstudio: a number of 5 000 digits",
        "nerfstudio",
        in_folder("nerfstudio", "transforms.json", lambda t: t.replace("30", "9" * 5000)),
        "not JSON",
    ),
    Bad("nerfstudio: frames that are a number", "nerfstudio", transforms(frames=3), "no list 'frames'"),
    Bad(
        "nerfstudio: a matrix of words", "nerfstudio", transforms(frame={"transform_matrix": "no"}), "transform_matrix"
    ),
    Bad(
        "nerfstudio: a matrix of unequal rows",
        "nerfstudio",
        transforms(frame={"transform_matrix": [[1], [2, 3]]}),
        "transform_matrix is not a 4x4",
    ),
    Bad(
        "nerfstudio: a focal length not a number", "nerfstudio", transforms(fl_x=float("nan")), "intrinsic fl_x is nan"
    ),
    Bad("nerfstudio: a focal length of 10^400", "nerfstudio", transforms(fl_x=10**400), "intrinsic fl_x"),
    Bad("nerfstudio: a width of 10^30", "nerfstudio", transforms(w=1e30), "width|size|intrinsic w"),
    Bad("nerfstudio: a width below zero", "nerfstudio", transforms(w=-5), "width|size|intrinsic w"),
    Bad(
        "nerfstudio: a field of view of half a turn",
        "nerfstudio",
        in_folder("nerfstudio", "transforms.json", lambda t: t.replace('"fl_x": 30', '"camera_angle_x": 0')),
        "camera_angle_x",
    ),
    Bad("nerfstudio: a name that is a list", "nerfstudio", transforms(frame={"file_path": ["a"]}), "have no image"),
    Bad("nerfstudio: a name with a zero byte", "nerfstudio", transforms(frame={"file_path": "a\0b"}), "nerfstudio"),
    Bad(
        "nerfstudio: a name of 10 000 letters",
        "nerfstudio",
        transforms(frame={"file_path": "n" * 10_000}),
        "nerfstudio",
    ),
    Bad(
        "kapture: of version 2",
        "kapture",
        in_folder("kapture", "sensors/sensors.txt", lambda t: t.replace("1.1", "2.0")),
        "expected '# kapture format: 1.x'",
    ),
    Bad(
        "kapture: a camera model that is none",
        "kapture",
        old_to_new("kapture", "PINHOLE", "FISH", "sensors/sensors.txt"),
        "no COLMAP camera model",
    ),
    Bad(
        "kapture: a timestamp of letters",
        "kapture",
        old_to_new("kapture", "0, cam", "x, cam", "sensors/records_camera.txt"),
        "timestamp 'x'",
    ),
    Bad(
        "kapture: a timestamp of 5 000 digits",
        "kapture",
        old_to_new("kapture", "0, cam", "9" * 5000 + ", cam", "sensors/records_camera.txt"),
        "timestamp",
    ),
    Bad(
        "kapture: a timestamp of other digits",
        "kapture",
        old_to_new("kapture", "0, cam", "²³, cam", "sensors/records_camera.txt"),
        "timestamp",
    ),
    Bad(
        "Cambridge: no header",
        "cambridge",
        in_folder("cambridge", "dataset_train.txt", lambda t: t.split("\n", 3)[3]),
        "three lines of header",
    ),
    Bad(
        "Cambridge: a pose of words",
        "cambridge",
        old_to_new("cambridge", "-1 0 0", "-1 x 0", "dataset_train.txt"),
        "line 5",
    ),
    Bad(
        "7-Scenes: a sequence that is none",
        "7-scenes",
        old_to_new("7-scenes", "sequence1", "../x", "TrainSplit.txt"),
        "expected 'sequence1'",
    ),
    Bad(
        "7-Scenes: a matrix of 3 numbers",
        "7-scenes",
        changed("7-scenes", "seq-01/frame-000000.pose.txt", lambda b: b"1 2 3"),
        "expected 16",
    ),
    Bad(
        "12-Scenes: a width not a number",
        "12-scenes",
        old_to_new("12-scenes", "Width = 32", "Width = inf", "a/b/info.txt"),
        "m_colorWidth is 'inf'",
    ),
    Bad(
        "12-Scenes: a range of 5 000 digits",
        "12-scenes",
        old_to_new("12-scenes", "frames=1", f"frames={'9' * 5000}", "a/b/split.txt"),
        "split.txt",
    ),
    Bad(
        "Map-free: a width of 10^300",
        "map-free",
        old_to_new("map-free", "12 32 24", "12 1e300 24", "intrinsics.txt"),
        "line 1",
    ),
    Bad(
        "DSAC*: a calibration of words",
        "dsac",
        changed("dsac", "train/calibration/0.txt", lambda b: b"wide"),
        "expected numbers",
    ),
    Bad(
        "DSAC*: random bytes for a pose",
        "dsac",
        changed("dsac", "train/poses/0.txt", lambda b: b"\xff\x00"),
        "cannot be read as text",
    ),
    Bad("scene: a key is missing", SCENE, scene(lambda v: v.pop("unit")), "KeyError: 'unit'"),
    Bad("scene: conditions that are a list", SCENE, scene(lambda v: v.update(conditions=[])), "scene"),
    Bad("scene: checksums that are a number", SCENE, scene(lambda v: v.update(sha256=7)), "scene"),
    Bad("scene: photos that are a number", SCENE, scene(lambda v: v.update(image_root=7)), "scene"),
    Bad("scene: parts that are a list", SCENE, scene(lambda v: v.update(parts=[1])), "scene"),
    Bad("scene: of a schema to come", SCENE, scene(lambda v: v["scrflow"].update(schema=99)), "schema version 99"),
    Bad("scene: a stamp of another form", SCENE, scene(lambda v: v["scrflow"].update(kind=[])), "scene.json"),
    Bad(
        "scene: another file in its folder",
        SCENE,
        changed(SCENE, "queries.txt", lambda b: b.replace(b"30.0", b"31.0", 1)),
        "not those that were written",
    ),
    Bad("table: another table", "table", written("t.csv", "a,b\n1,2\n"), "no column table"),
    Bad("table: a line too short", "table", changed("table", "", lambda b: b + b"main,,a\n"), "line 3"),
    Bad("table: words for numbers", "table", old_to_new("table", "3.3", "many"), "mean is 'many'"),
    Bad(
        "table: a field of 200 000 letters",
        "table",
        changed("table", "", lambda b: b.replace(b"demo", b"d" * 200_000)),
        "table",
    ),
    Bad(
        "downloads: a path that leads upwards",
        "download table",
        old_to_new("download table", "a.jpg\t", "../a.jpg\t"),
        "leads out of the scene's folder",
    ),
    Bad("downloads: http", "download table", old_to_new("download table", "https", "http"), "is not https"),
    Bad(
        "downloads: a file of this machine",
        "download table",
        old_to_new("download table", "https", "file"),
        "is not https",
    ),
    Bad(
        "downloads: a checksum too short",
        "download table",
        old_to_new("download table", "0" * 64, "0" * 63),
        "line 2: key sha256",
    ),
    Bad(
        "downloads: an address that is none",
        "download table",
        old_to_new("download table", "https://e", "https://[e"),
        "url",
    ),
    Bad("video: text with its name", "video", written("a.mp4", "this is no film"), "a.mp4"),
    Bad("video: empty", "video", written("a.mp4", b""), "a.mp4"),
    Bad("inspect: 100 000 brackets", "inspect", written("a.json", "[" * 100_000), "damaged"),
    Bad("inspect: no known ending", "inspect", written("a.exe", b"MZ"), "unknown kind of file"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_bad_text(case, confined, sound, tmp_path):
    message(case, confined, sound, tmp_path)
