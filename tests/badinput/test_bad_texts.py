"""Text, JSON, YAML and tables that are damaged, or that no tool would write."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from bad import Bad, changed, check_refused, half, replaced, written

from scrflow.storage.checksum import write_checksum

NVM, LIST, POSES, SCENE, TABLE = "nvm", "query list", "poses", "scene", "download table"
ONE = "a.png 1 0 0 0 0 0 0\n"
MANY_DIGITS, BRACKETS, RANDOM = "9" * 5000, "[" * 100_000, bytes(range(256)) * 4

LISTS = [
    Bad("poses: random bytes", POSES, written("p.txt", RANDOM), "cannot be read as text"),
    Bad("poses: a word", POSES, written("p.txt", ONE.replace("0", "zero", 1)), "line 1: .*expected"),
    Bad("poses: NaN", POSES, written("p.txt", ONE.replace("0", "nan", 1)), "finite numbers"),
    Bad("queries: width below zero", LIST, written("q.txt", "a.png SIMPLE_PINHOLE -5 24 30 16 12\n"), "line 1: "),
    Bad("queries: a folder", LIST, lambda sound, folder: folder, "cannot be read as text"),
    Bad("cameras of photos: none", "cameras of photos", written("c.txt", "x PINHOLE 9 9 9 9 9 9\n"), "of 3 photos"),
]

# ------------------------------------------------------------------------------------------------------------ datasets


def transforms(**over: object):
    """transforms.json with other values; those of the first frame under ``frame``."""

    def change(data: bytes) -> bytes:
        values = json.loads(data)
        values["frames"][0].update(over.pop("frame", {}))
        return json.dumps({**values, **over}).encode()

    return changed("nerfstudio", "transforms.json", change)


def instead(reader: str, name: str, content: bytes | str):
    return changed(reader, name, lambda data: content.encode() if isinstance(content, str) else content)


FRAMES = "transforms.json"
DATASETS = [
    Bad("NVM: another header", NVM, replaced(NVM, "NVM_V3", "NVM_V4"), "expected 'NVM_V3'"),
    Bad("NVM: claims 10^15 points", NVM, replaced(NVM, "\n2\n", f"\n{10**15}\n"), "line 11|ends after"),
    Bad("NVM: a count of 5 000 digits", NVM, replaced(NVM, "\n3\n", f"\n{MANY_DIGITS}\n"), "number of cameras"),
    Bad("NVM: a point seen 10^9 times", NVM, replaced(NVM, "1 2 3 2 0 0", "1 2 3 1000000000 0 0"), "line 9"),
    Bad("NVM: cut off", NVM, changed(NVM, "", half), r"model\.nvm: "),
    Bad("NVM: path", "nvm scene", replaced("nvm scene", "db/0.png", "../../../etc", "model.nvm"), "image"),
    Bad("nerfstudio: brackets", "nerfstudio", instead("nerfstudio", FRAMES, BRACKETS), "not JSON"),
    Bad("nerfstudio: frames are a number", "nerfstudio", transforms(frames=3), "no list 'frames'"),
    Bad("nerfstudio: a matrix of words", "nerfstudio", transforms(frame={"transform_matrix": "no"}), "transform_m"),
    Bad("nerfstudio: a name is a list", "nerfstudio", transforms(frame={"file_path": ["a"]}), "have no file"),
    Bad("nerfstudio: zero byte in a name", "nerfstudio", transforms(frame={"file_path": "a\0b"}), "nerfstudio"),
    *(
        Bad(f"{reader}: {new[:20]}", reader, replaced(reader, old, new, name), says)
        for reader, name, old, new, says in (
            ("kapture", "sensors/records_camera.txt", "0, cam", f"{MANY_DIGITS}, cam", "timestamp"),
            ("kapture", "sensors/records_camera.txt", "0, cam", "²³, cam", "timestamp"),
            ("7-scenes", "TrainSplit.txt", "sequence1", "../x", "expected 'sequence1'"),
            ("12-scenes", "a/b/info.txt", "Width = 32", "Width = inf", "m_colorWidth is 'inf'"),
            ("12-scenes", "a/b/split.txt", "frames=1", f"frames={MANY_DIGITS}", "split.txt"),
            ("map-free", "intrinsics.txt", "12 32 24", "12 1e300 24", "line 1"),
            ("dsac", "train/calibration/0.txt", "30", "wide", "expected num"),
            (
                "colmap text",
                "images.txt",
                "2 1 0",
                "2 one 0",
                r"images\.txt: line 2: expected 'IMAGE_ID QW QX .* NAME'",
            ),
            ("colmap text", "images.txt", " db/1.png", "", r"images\.txt: line 2: expected 'IMAGE_ID QW QX .* NAME'"),
            ("colmap text", "images.txt", " 1 db/1.png", " 7 db/1.png", r"line 2: camera 7 is not in cameras\.txt"),
            ("colmap text", "cameras.txt", "PINHOLE", "EQUIRECTANGULAR", r"cameras\.txt: line 1: .* no focal length"),
            (
                "realitycapture",
                "cameras.csv",
                "db/1.png,",
                "db/1.png,x",
                r"csv: line 3: db/1\.png: expected finite numb",
            ),
        )
    ),
    Bad("dsac: random bytes", "dsac", instead("dsac", "train/poses/0.txt", b"\xff\x00"), "poses/0.txt"),
]

# ----------------------------------------------------------------------------------------------- scenes, tables, others


def scene(change: Callable[[dict], object]):
    """scene.json changed, with a new checksum."""

    def make(sound: dict[str, Path], folder: Path) -> Path:
        path = shutil.copytree(sound[SCENE], folder / "scene") / "scene.json"
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values, indent=1) + "\n")
        write_checksum(path)
        return folder / "scene"

    return make


OTHERS = [
    Bad("scene: a key is missing", SCENE, scene(lambda v: v.pop("unit")), "unit"),
    Bad("scene: a newer schema", SCENE, scene(lambda v: v["scrflow"].update(schema=99)), "schema version 99"),
    Bad("scene: another file", SCENE, replaced(SCENE, "30.0", "31.0", "queries.txt"), "not those that were written"),
    Bad("downloads: no UTF-8", TABLE, changed(TABLE, "", lambda b: b.replace(b"a.jpg", b"\xd0\xce")), "cannot be read"),
    Bad("video: text", "video", written("a.mp4", "this is no film\n" * 500), r"a\.mp4: not a video"),
    Bad("inspect: brackets", "inspect", written("a.json", BRACKETS), "damaged"),
]

# -------------------------------------------------------------------------------------------------------------- config

CONFIG, METHOD, PLACE, COMMON = "config", "methods/quick.yaml", "scenes/tiny.yaml", "config.yaml"
OWN = "description: d\nencoder: small\nretrieval: vlad\nglobal_encoding: {name: vlad}\nlocalize: {hypotheses: 10}\n"
ALIASES = "a0: &a0 [x, x]\n" + "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12))
APPENDED = (  # to the method
    ("an unknown key", "colour: blue", r"quick\.yaml: key colour: extra inputs"),
    ("a key twice", "encoder: small", r"quick\.yaml: .*encoder.* twice"),
    ("NaN", "training: {lr_max: .nan}", r"key training\.lr_max"),
    ("a tag that makes an object", "x: !!python/object/apply:os.system [ls]", "not YAML: could not determine"),
    ("an alias of itself", "head: &h\n  width: *h", r"quick\.yaml: "),
    ("a date that is none", "seed: 2020-99-99", r"quick\.yaml: "),
    ("5 000 digits", f"seed: {MANY_DIGITS}", r"quick\.yaml: "),
    ("extends in a circle", "extends: quick", "extends runs in a circle"),
)
FILE = "retrieval: {h: {kind: hloc, file: '{scene.__class__}.h5'}}\n"
DEPTH = "depth_maps: {pattern: '{stem.__class__}.png', max_depth: 5}\n"
BLANKS = "depth_maps: {pattern: '{stem:>999999999}.png', max_depth: 5}\n"
HTTP = "download: {archives: [{url: 'http://a.org/b.zip'}]}\n"


def appended(name: str, text: str):
    return changed(CONFIG, name, lambda data: data + text.encode())


CONFIGS = [
    *(Bad(f"config: {kind}", CONFIG, appended(METHOD, f"{text}\n"), says) for kind, text, says in APPENDED),
    *(
        Bad(f"config: {text}", CONFIG, replaced(CONFIG, old, text, name), says)
        for name, old, text, says in (
            (COMMON, "seed: 1", "seed: one", r"config/config\.yaml: key seed"),
            (PLACE, "reader: colmap", "{reader: colmap, modle: m}", r"scenes/tiny\.yaml: key source\.modle"),
            (PLACE, "colmap", "colmpa", r"scenes/tiny\.yaml: .*no reader 'colmpa'; .* cambridge, colmap"),
            (METHOD, "encoder: small", "encoder: smal", r"methods/quick\.yaml: .*encoder.*smal"),
        )
    ),
    Bad("config: dim 1", CONFIG, appended("encoders/small.yaml", "pca: {dim: 1}\n"), r"small\.yaml: key pca\.dim"),
    Bad("config: a list", CONFIG, instead(CONFIG, METHOD, "- a\n- b\n"), "expected keys and values, found list"),
    Bad("config: aliases of aliases", CONFIG, instead(CONFIG, METHOD, ALIASES), r"quick\.yaml: "),
    Bad("config: 20 000 brackets", CONFIG, instead(CONFIG, METHOD, "a: " + "[" * 20_000), r"quick\.yaml: "),
    Bad(
        "config: ten hypotheses of one", CONFIG, instead(CONFIG, METHOD, OWN), r"key localize\.hypotheses: 10, .*set 1"
    ),
    Bad("config: a missing file", CONFIG, changed(CONFIG, COMMON, lambda b: None), "no such config file"),
    Bad("config: attributes in a name", CONFIG, instead(CONFIG, COMMON, FILE), r"config\.yaml: key retrieval\.h"),
    Bad("config: attributes in a pattern", CONFIG, appended(PLACE, DEPTH), r"key depth_maps\.pattern"),
    Bad("config: a name of 10^9 blanks", CONFIG, appended(PLACE, BLANKS), r"key depth_maps\.pattern"),
    Bad("config: a download by http", CONFIG, appended(PLACE, HTTP), r"key download\.archives\.0\.url"),
    Bad("papers: a key twice", "papers", changed("papers", "one.yaml", lambda b: b + b"name: Q\n"), "twice"),
]


@pytest.mark.parametrize("case", [*LISTS, *DATASETS, *OTHERS, *CONFIGS], ids=str)
def test_bad_text(case, sound, tmp_path):
    check_refused(case, sound, tmp_path)
