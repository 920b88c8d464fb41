"""Datasets that are broken in one place: one line says where, and the earlier scene stays."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from replicas import (
    COUNT,
    FOLDER,
    SEQUENCES,
    name,
    replica,
    seven_replica,
    twelve_replica,
    write_cambridge,
    write_hyundai,
    write_mapfree,
)
from small_datasets import (
    GONE,
    LISTS,
    change,
    check_refused,
    pose,
    pose_text,
    source_for,
    stage_of,
    write_dsac,
    write_nerfstudio,
    write_poselist,
)

from scrflow.config import Split
from scrflow.core.geometry import invert_pose

seven = partial(source_for, "sevenscenes", folder="chess")
twelve = partial(source_for, "twelvescenes", folder="apt1/kitchen")


def cambridge(root: Path) -> None:
    write_cambridge(root / "Shop", replica(COUNT, radial=0.06))


def moved(scale: float, *shift: float) -> str:
    """The pose list with the cameras' centres elsewhere."""
    inverse = invert_pose(np.stack([pose(i) for i in range(6)]))
    inverse[:, :, 3] = scale * inverse[:, :, 3] + shift
    return "".join(pose_text(f"im/{i}.png", p, 50.0) for i, p in enumerate(invert_pose(inverse)))


UTM = r"poses\.txt: the cameras stand 5\.42e\+06 from the origin and \d\.\d+ from each other"
FORMS = {  # (writer, root in what it writes, source, its split)
    "pose list": (write_poselist, ".", source_for("poselist", poses="poses.txt"), LISTS),
    "nerfstudio": (write_nerfstudio, ".", source_for("nerfstudio"), Split(every=6)),
    "dsac": (write_dsac, ".", source_for("dsac"), None),
    "kapture": (write_hyundai, FOLDER, source_for("kapture", mapping="mapping", queries={"v": "validation"}), None),
    "mapfree": (partial(write_mapfree, sequences=SEQUENCES), ".", source_for("mapfree"), None),
    "7-scenes dslam": (seven_replica, "7scenes/chess", seven(poses="dslam"), None),
    "7-scenes sfm": (seven_replica, "7scenes/chess", seven(poses="sfm"), None),
    "12-scenes dslam": (twelve_replica, "12scenes/apt1", twelve(poses="dslam"), None),
    "12-scenes sfm": (twelve_replica, "12scenes/apt1", twelve(poses="sfm"), None),
    "cambridge": (cambridge, ".", source_for("cambridge", folder="Shop"), None),
    "nvm": (cambridge, "Shop", source_for("nvm", model="reconstruction.nvm"), Split(every=6)),
}
S = "1566545000"
FIRST = r"\A(#.*\n#.*\n)(.*), (\S+)$"  # the header, and the first line without its last field
SENSORS, RECORDS, POSES, RIGS = (
    f"mapping/sensors/{n}.txt" for n in ("sensors", "records_camera", "trajectories", "rigs")
)
CIRCLE = "".join(f"{pair}, 1, 0, 0, 0, 0, 0, 0\n" for pair in ("a, b", "b, a", "a, 40027089"))
CHESS_TRAIN = "../visloc_pseudo_gt_limitations/pgt/sfm/7scenes/chess_train.txt"
POSE, INFO, ORDER = "seq-01/frame-000003.pose.txt", "kitchen/info.txt", "kitchen/split.txt"
TRAIN, TEST, MODEL = (f"Shop/{n}" for n in ("dataset_train.txt", "dataset_test.txt", "reconstruction.nvm"))
OTHER_MODEL = "NVM_V3\n1\na.jpg 500 1 0 0 0 0 0 0 0 0\n0\n"
NVM, POINT = "reconstruction.nvm", r"^((\S+ ){3}\d+ )20( 30 \d+) "  # the first point
LIST, JSON, FRAME = "poses.txt", "transforms.json", r'(images/1\.png", "transform_matrix": \[)'
DSAC_POSE, CALIBRATION = "train/poses/s-1.pose.txt", "train/calibration/s-1.calibration.txt"
FAULTS = {  # (file, pattern, what replaces it, message)
    "pose list": [
        ("im/1.png", GONE, "", r"im/1\.png: image is missing"),
        (LIST, "im/3", "im/x", r"mapping\.txt: im/3\.png is listed, but .*poses\.txt"),
        (LIST, "im/3", "im/2", r"poses\.txt: line 4: im/2\.png: listed twice"),
        (LIST, "im/0.png ", "im/0.png 1", r"poses\.txt: line 1: im/0\.png: quaternion has length"),
        (LIST, r"^(im/1\.png( \S+){4}) \S+", r"\1 1e9", r"poses\.txt: camera of im/1\.png is 1e\+09 from the others"),
        (LIST, r"(.|\n)+", moved(1, 4.5e5, 5.4e6, 100), UTM),
        (LIST, r"(.|\n)+", moved(0, 1, 1, 1), r"poses\.txt: all 4 mapping cameras stand in one place"),
        (LIST, " 50.0$", " 0.0", r"poses\.txt: im/0\.png: focal length"),
        (LIST, " 50.0$", "", r"poses\.txt: line 1: im/0\.png: expected 'name qw"),
        ("queries.txt", "im/4", "im/0", r"mapping\.txt: im/0\.png both mapping image and query"),
        ("mapping.txt", "im/1", "im/0", r"mapping\.txt: line 2: im/0\.png is listed twice"),
        ("mapping.txt", r"\n(.*\n)+", "\n", r"mapping\.txt: 1 mapping images, expected at least 3"),
        (".", GONE, "", r"data: no such folder"),
    ],
    "nerfstudio": [
        (JSON, FRAME + r"\[-?0", r"\1[5", r"transforms\.json: frame images/1\.png: .*not a rotation"),
        (JSON, FRAME + r"(\[[^]]*\]), (\[[^]]*\])", r"\1\3, \2", r"frame images/1\.png: .*mirrored rotation \(determ"),
        (JSON, FRAME + r"\[[^,]*", r"\1[Infinity", r"transforms\.json: frame images/1\.png: .*not finite"),
        (JSON, FRAME + r"(.*?)1\.0\]\]", r"\1\g<2>2.0]]", r"transforms\.json: frame images/1\.png: last row"),
        (JSON, FRAME + r"\[[^]]*\], \[[^]]*\], ", r"\1", r"pose has shape \(2, 4\), expected 4x4 or 3x4"),
        (
            JSON,
            r"images/1\.png",
            "images/gone.png",
            r"json: 1 of 6 photos have no file under .*data \(images/gone\.png\)",
        ),
        (JSON, r"images/1\.png", "images/2.png", r"transforms\.json: images/2\.png listed more than once"),
        (JSON, r"\./images/1\.png", "../../x/1b.png", r"1 of 6 photos have no file under .*\.\./x/1b\.png"),
        (JSON, r'"fl_x": 50\.0, ', "", r"transforms\.json: frame images/0\.png: no focal length"),
        (JSON, r'"cx": 31\.0', '"cx": "a"', r"transforms\.json: frame images/0\.png: intrinsic cx"),
        (JSON, r'"w": 64\.0', '"w": 65', r"images/1\.png: image is 64x48 px, its camera is 65x48"),
        (JSON, r"\A\{", '{"camera_model": "EQUIRECTANGULAR", ', r"json: .*camera_model 'EQUIRECTANGULAR'"),
    ],
    "dsac": [
        (DSAC_POSE, GONE, "", r"train/poses: 3 files for 4 images"),
        (DSAC_POSE, r"(.|\n)+", "1 2 3", r"s-1\.pose\.txt: 3 numbers, expected 16"),
        (CALIBRATION, r"1\Z", "2", r"s-1\.calibration\.txt: not a calib"),
    ],
    "kapture": [
        ("mapping", GONE, "", r"mapping/sensors: no such folder"),
        (POSES, GONE, "", r"mapping/sensors/trajectories\.txt: no pose of a mapping image"),
        (SENSORS, "1.1", "2.0", r"sensors\.txt: line 1: expected .*found '# kapture format: 2\.0'"),
        (SENSORS, r"^400(.*\n)+", "", r"sensors\.txt: no sensor of type 'camera'"),
        (SENSORS, r"^(400.*\n)", r"\1\1", r"sensors\.txt: line 4: .*listed twice"),
        (SENSORS, r"OPENCV.*", "UNKNOWN_CAMERA, 512, 384", r"camera '40027089' has no intrinsics"),
        (RECORDS, FIRST, rf"\g<1>{S}, lidar0, a.jpg", r"line 3: sensors\.txt has no camera 'lidar0'"),
        (RECORDS, FIRST, rf"\g<0>\n0{S}, 40027089, a.jpg", r"line 4: another image of '40027089'"),
        (POSES, FIRST, rf"\g<1>{S}, rig_1F, 1, 0, , , 1, 2, 3", r"line 3: 1, 0, .* is not a pose"),
        (POSES, FIRST, r"\g<0>\n\2, \3", r"line 4: a second pose of 'rig_1F' at 1566545000"),
        (RIGS, FIRST, r"\g<1>40027089, b, 1, 0, 0, 0, 0, 0, 0", r"line 3: '40027089' is both"),
        (RIGS, r"^rig(.*\n)+", CIRCLE, r"camera\.txt: line 3: rigs\.txt runs in a circle: 40027089 -> a -> b -> a"),
    ],
    "mapfree": [
        ("poses.txt", r"^(seq0\S+)( \S+){4}", r"\1 0 0 0 0", r"line 2: seq0/.*: quaternion has length 0"),
        ("intrinsics.txt", r" 384$", " 384.5", r"line 2: seq0/.*: size 512x384\.5 is not of whole pixels"),
        ("poses.txt", r"(.*\n)+", "", r"poses\.txt: no pose of a frame of seq0"),
        ("intrinsics.txt", r"^seq1(.*\n)+", "", r"intrinsics\.txt: no frames of sequence 'seq1'; there are seq0"),
    ],
    "7-scenes dslam": [
        (POSE, r"(.*\n){2}\Z", "", r"frame-000003\.pose\.txt: 8 numbers, expected 16"),
        (POSE, r"\A", "x", r"frame-000003\.pose\.txt: expected numbers"),
    ],
    "7-scenes sfm": [
        (CHESS_TRAIN, GONE, "", r"chess_train\.txt: pose list is missing; github"),
        (CHESS_TRAIN, "seq-01", "seq-09", r"seq-09/frame-\d+\.color\.png: image is missing; .*chess_train"),
        ("TestSplit.txt", "3", "5", r"chess/seq-05: no frame-\*\.color\.png in it; unpack seq-05\.zip"),
        ("TestSplit.txt", "3", "1", r"chess: .*both mapping image and query"),
    ],
    "12-scenes dslam": [
        (INFO, "= 400 0 256.5", "= 400", r"m_calibrationColorIntrinsic is .*expected 16 num"),
        (INFO, "= 400 0 256.5", "= 400 3 256.5", r"m_calibrationColorIntrinsic is not \[fx 0 cx"),
    ],
    "12-scenes sfm": [(ORDER, "frames=3", "frames=4", r"split\.txt: line 1: frames 0 to 2 are not 4")],
    "cambridge": [
        (TRAIN, r"^seq1.*$", f"{name(0)} 0 0 0 2 0 0 0", r"line 4: .*quaternion has length 2"),
        (TRAIN, r"\A(.*\n){3}", "", r"dataset_train\.txt: expected three lines of header"),
        (TRAIN, r"^seq(.*\n)+", "", r"dataset_train\.txt: no image in it"),
        (TEST, "seq3/frame00008", "seq1/frame00001", r"seq1/frame00001\.png listed more than once"),
        (MODEL, r"(.|\n)+", OTHER_MODEL, r"reconstruction\.nvm: has none of the 9 images"),
    ],
    "nvm": [
        (NVM, r"NVM_V3", "NVM_V3 FixedK 800 320 800 240", r"begins with 'NVM_V3' and 5 more fields"),
        (NVM, r"^(seq1/frame00003.*) \S+ 0 ?$", r"\1", r"nvm: line 6: expected a camera 'name focal qw"),
        (NVM, POINT, r"\g<1>20 30 99 ", r"nvm: line 15: expected a point"),
        (NVM, POINT + r"\d+ ", r"\g<1>20\3 17 ", r"nvm: point 1 names image 17 of 9"),
        (NVM, POINT + r"(.|\n)*", "", r"nvm: ends before point 1 of \d+"),
        (NVM, r"^(seq1/frame00004\S+\s\S+) \S+", r"\1 3.5", r"frame00004\.\w+: quaternion has length 3\.[0-9]+, exp"),
    ],
}


@pytest.fixture(scope="module")
def sound_datasets(tmp_path_factory) -> Path:
    """One folder a form, to be copied before it is broken."""
    folder = tmp_path_factory.mktemp("sound")
    for form, (write, *_) in FORMS.items():
        write(folder / form)
    return folder


@pytest.mark.parametrize(("form", "fault"), [(form, fault) for form in FORMS for fault in FAULTS[form]])
def test_a_fault_names_its_file_and_keeps_what_was_there(sound_datasets, tmp_path, form, fault):
    _, where, source, split = FORMS[form]
    file, pattern, new, message = fault
    root = Path(shutil.copytree(sound_datasets / form, tmp_path / "data")) / where
    change(root / file, pattern, new)
    check_refused(stage_of(source, split), root, tmp_path / "scene", message)
