"""Forms of poses that people have, from any system: scrflow new-scene finds them, and the scene has the known poses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import room_forms as forms
from exif_photos import real
from PIL import Image
from room_forms import COUNT, Room, room
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from scipy.spatial.transform import Rotation
from small_datasets import built

from scrflow.config import SceneStage
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import pixels_from_rays
from scrflow.newscene import NewScene, draft_scene
from scrflow.newscene.draft import Draft
from scrflow.newscene.rosbag import unpack_bag
from scrflow.newscene.survey import chosen_form, source_of
from scrflow.pipeline.project import Project
from scrflow.scene import Scene
from scrflow.scene.lists import PhotoNames, camera_of_fields
from scrflow.scene.photo_files import upright
from scrflow.scene.readers import detect_forms, read_source
from scrflow.storage.listfile import read_text

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def project() -> Project:
    return Project(REPO / "config")


@pytest.fixture
def kitchen(tmp_path) -> Room:
    return room(tmp_path / "room")


def draft(project: Project, path: Path, **options) -> Draft:
    return draft_scene(NewScene(name="place", path=path, **options), project, gpu=False)


def scene_of(found: Draft, tmp_path: Path) -> Scene:
    """The scene of a drafted config, with the lists that new-scene would write."""
    for path, text in found.lists:
        path.write_text(text, encoding="utf-8")
    config = found.config
    stage = SceneStage(
        source=config.source, split=config.split, unit=config.unit, min_mapping_images=3, check_poses=False
    )
    return built(stage, Path(config.root), tmp_path / "scene")


def check_values(scene: Scene, kitchen: Room, tolerance: float = 1e-6) -> None:
    """Poses and cameras are the known ones, and no photo is missing."""
    views = [*scene.mapping, *(v for v in scene.query_views() if v.cam_from_world is not None)]
    for view in views:
        i = kitchen.photos[scene.image_path(view.name).resolve()]
        np.testing.assert_allclose(view.cam_from_world, kitchen.poses[i], atol=tolerance, err_msg=view.name)
        K = view.camera.calibration_matrix()
        np.testing.assert_allclose(K, [[kitchen.focal, 0, 320], [0, kitchen.focal, 240], [0, 0, 1]], rtol=1e-6)
        assert (view.camera.width, view.camera.height) == forms.SIZE


def numbers(kitchen: Room, scene: Scene, names: list[str]) -> list[int]:
    return sorted(kitchen.photos[scene.image_path(name).resolve()] for name in names)


ELSEWHERE = forms.nerfstudio("../images/{:04d}.jpg", name="nerf/transforms.json")
ABSOLUTE = forms.nerfstudio("ROOM/images/{:04d}.jpg", name="abs.json")
OTHER_NAMES = forms.colmap("images/Left/{:04d}.jpg", name="left\\{:04d}.PNG", between="\r\n")
FORMS = {  # case: (writer, what new-scene calls it, path under the room, unit)
    "COLMAP binary": (forms.colmap_binary, "COLMAP", "", "unit"),
    "COLMAP rig": (forms.colmap_rig, "COLMAP", "", "unit"),
    "photos beside the file's folder": (ELSEWHERE, "nerfstudio", "", "unit"),
    "photos beside the file's folder, file": (ELSEWHERE, "nerfstudio", "nerf/transforms.json", "unit"),
    "absolute paths": (ABSOLUTE, "nerfstudio", "", "unit"),
    "absolute paths, file": (ABSOLUTE, "nerfstudio", "abs.json", "unit"),
    "instant-ngp": (forms.instant_ngp, "nerfstudio", "", "unit"),
    "TUM": (forms.tum, "TUM RGB-D", "", "m"),
    "ORB-SLAM": (forms.orb_slam, "TUM RGB-D", "", "m"),
    "ACE Zero": (forms.ace_zero, "ACE Zero", "", "unit"),
    "ACE Zero, file": (forms.ace_zero, "ACE Zero", "poses_final.txt", "unit"),
    "Polycam": (forms.polycam, "Polycam", "", "m"),
    "Polycam, corrected": (forms.polycam_corrected, "Polycam", "", "m"),
    "3D Scanner App": (forms.scanner_app, "ARKit", "", "m"),
    "ARKit by columns": (forms.arkit_by_columns, "ARKit", "", "m"),
    "Record3D": (forms.record3d, "Record3D", "", "m"),
    "Record3D, unpacked": (forms.record3d_unpacked, "Record3D", "", "m"),
    "RealityCapture": (forms.realitycapture, "RealityCapture", "", "unit"),
    "OpenMVG": (forms.openmvg, "OpenMVG", "", "unit"),
    "OpenSfM": (forms.opensfm, "OpenSfM", "", "unit"),
    "Bundler": (forms.bundler, "Bundler", "", "unit"),
    # text as other systems and people write it
    "COLMAP by hand": (forms.colmap_by_hand, "COLMAP", "", "unit"),
    "COLMAP with gaps and comments": (forms.colmap_gaps_and_comments, "COLMAP", "", "unit"),
    "COLMAP, other slashes, case and suffix": (OTHER_NAMES, "COLMAP", "", "unit"),
    "UTF-16": (forms.nerfstudio("images\\{:04d}.jpg", encoding="utf-16"), "nerfstudio", "", "unit"),
    "of another machine": (forms.nerfstudio("C:\\Users\\me\\scan\\images\\{:04d}.jpg"), "nerfstudio", "", "unit"),
    "of another folder": (forms.nerfstudio("/mnt/scan/{:04d}.png", "{:04d}.JPG"), "nerfstudio", "", "unit"),
    "without suffix": (forms.nerfstudio("./images/{:04d}"), "nerfstudio", "", "unit"),
    "pose list with CRLF": (forms.poselist_crlf, "pose list", "", "unit"),
    "TUM with tabs": (forms.tum_tabs, "TUM RGB-D", "", "m"),
}


@pytest.mark.parametrize("case", FORMS)
def test_given_poses_are_taken(case, kitchen, project, tmp_path):
    write, form, path, unit = FORMS[case]
    write(kitchen)
    found = draft(project, kitchen.root / path)
    rows = dict(found.rows)
    assert rows["form"].startswith(form) and rows["poses"] == f"{COUNT} of {COUNT}" and rows["unit"] == unit
    scene = scene_of(found, tmp_path)
    assert len(scene.mapping) + len(scene.queries) == COUNT
    check_values(scene, kitchen)


@pytest.mark.parametrize(
    "write", [forms.instant_ngp, forms.realitycapture, forms.openmvg, forms.opensfm], ids=lambda write: write.__name__
)
def test_lens_distortion_is_that_of_opencv(write, kitchen):
    """The lens of fox, with a principal point off the centre: rays come to the same pixels."""
    fox = json.loads((real("fox") / "transforms.json").read_text())
    kitchen.lens, kitchen.centre = tuple(fox[key] for key in ("k1", "k2", "p1", "p2")), (325.0, 236.0)
    write(kitchen)
    found = detect_forms(kitchen.root)[0]
    camera = read_source(source_of(found), found.root).images[0].camera
    params = [kitchen.focal, kitchen.focal, *kitchen.centre, *kitchen.lens]
    true = pycolmap.Camera(model="OPENCV", width=640, height=480, params=params)
    rays = np.stack(np.meshgrid(np.linspace(-0.5, 0.5, 9), np.linspace(-0.4, 0.4, 9)), -1).reshape(-1, 2)
    np.testing.assert_allclose(pixels_from_rays(camera, rays), pixels_from_rays(true, rays), atol=1e-6)


SPLITS = [  # (writer, mapping photos, queries)
    (forms.split_keys, range(8), range(8, COUNT)),
    (forms.split_val_only, range(8), range(8, COUNT)),
    (forms.split_lists, range(8), range(8, COUNT)),
    (forms.split_train_list, range(8), range(8, COUNT)),
    (forms.split_lists_in_a_folder, range(8), range(8, COUNT)),
    (forms.split_json, range(8), range(8, COUNT)),
    (forms.split_json_ids, range(8), range(8, COUNT)),
    (forms.split_folders, range(8), range(8, COUNT)),
    (forms.blender, forms.SPLITS["train"], forms.SPLITS["test"]),
    (forms.dsac, [i for i in range(COUNT) if i % 4], range(0, COUNT, 4)),
]


@pytest.mark.parametrize(("write", "mapping", "queries"), SPLITS, ids=[w.__name__ for w, _, _ in SPLITS])
def test_stated_splits_are_kept(write, mapping, queries, kitchen, project, tmp_path):
    write(kitchen)
    found = draft(project, kitchen.root)
    assert found.config.split.every is None
    scene = scene_of(found, tmp_path)
    assert numbers(kitchen, scene, [v.name for v in scene.mapping]) == list(mapping)
    assert numbers(kitchen, scene, [q.name for q in scene.queries]) == list(queries)
    check_values(scene, kitchen)


# ------------------------------------------------------------------------------------------- any folder, any photo


def in_home(r: Room, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(r.root.parent))
    return Path("~/room")


def from_another_folder(r: Room, monkeypatch) -> Path:
    (r.root.parent / "elsewhere").mkdir()
    monkeypatch.chdir(r.root.parent / "elsewhere")
    return Path("../elsewhere/../room/model")


def behind_links(r: Room, monkeypatch) -> Path:
    """The folder is a link, and so is the photos' folder in it, to another disk."""
    (r.root / "images").rename(r.root.parent / "another disk")
    r.photos = {r.root.parent.resolve() / "another disk" / path.name: i for path, i in r.photos.items()}
    (r.root / "images").symlink_to(r.root.parent / "another disk", target_is_directory=True)
    (r.root.parent / "Küche #1").symlink_to(r.root, target_is_directory=True)
    return r.root.parent / "Küche #1"


def in_the_project(r: Room, monkeypatch) -> Path:
    monkeypatch.chdir(r.root.parent)
    return Path("room")


@pytest.mark.parametrize("given", [in_home, from_another_folder, behind_links, in_the_project])
def test_photos_anywhere(given, kitchen, project, tmp_path, monkeypatch):
    forms.colmap_by_hand(kitchen)
    found = draft(project, given(kitchen, monkeypatch))
    assert found.config.in_project == (given is in_the_project)
    check_values(scene_of(found, tmp_path), kitchen)


def test_posed_photos_that_colmap_does_not_read(kitchen, project, tmp_path):
    """The model names the photos as they were. Other kinds of such photos: tests/scene/test_photo_files.py."""
    (kitchen.root / "phone").mkdir()
    for i, source in enumerate(kitchen.sources):
        with Image.open(source) as image:
            image.save(kitchen.root / f"phone/{i:04d}.HEIC", "HEIF", quality=60)
    kitchen.model("{:04d}.HEIC")
    upright(kitchen.root / "phone", kitchen.root / "images")
    shutil.rmtree(kitchen.root / "phone")
    kitchen.photos = {path.resolve(): int(path.name[:4]) for path in (kitchen.root / "images").iterdir()}
    check_values(scene_of(draft(project, kitchen.root), tmp_path), kitchen)


def test_two_folders_of_queries_with_equal_names(kitchen, project, tmp_path):
    names = [*(f"map/{i:04d}.jpg" for i in range(10)), "day/1.jpg", "night/1.jpg"]
    for i, name in enumerate(names):
        kitchen.photo(f"images/{name}", i)
    kitchen.model("{}.jpg")
    text = (kitchen.root / "model/images.txt").read_text()
    for i, name in enumerate(names):
        text = text.replace(f" 1 {i}.jpg", f" 1 {name}")
    kitchen.text("model/images.txt", text)
    found = draft(project, kitchen.root, queries=[kitchen.root / "images" / name for name in ("day", "night")])
    scene = scene_of(found, tmp_path)
    assert {q.condition: numbers(kitchen, scene, [q.name]) for q in scene.queries} == {"day": [10], "night": [11]}
    check_values(scene, kitchen)


def test_other_splits_are_named(kitchen, project):
    """Nearer ones are taken; tables are not read."""
    forms.split_lists_in_a_folder(kitchen)
    kitchen.text("train.txt", ["gone.jpg"])
    kitchen.text("split.csv", ["name,split", "0001.jpg,test"])
    kitchen.text("test.json", "5")
    kitchen.text("splits/two/test.txt", ["0000.jpg"])
    found = draft(project, kitchen.root)
    told = sorted(line.split(";")[0] for line in found.missing if line.startswith("Split passed over"))
    chosen = "(splits/one/test.txt is taken)"
    assert told == [f"Split passed over: {p} {chosen}" for p in ("split.csv", "splits/two/test.txt", "train.txt")]
    assert dict(found.rows)["queries"].startswith("4, of test.txt")


def test_poses_that_are_not_read_are_named(kitchen, project):
    forms.tum_without_camera(kitchen)
    kitchen.text("kitti/odometry.csv", ["a,b,c,d,e,f,g,h", *["1,2,3,4,5,6,7,8"] * 3])
    kitchen.text("scan/run.mcap", "")
    kitchen.text("pose/0.txt", ["1 0 0 0", "0 1 0 0", "0 0 1 0", "0 0 0 1"])
    found = draft(project, kitchen.root)
    assert dict(found.rows)["form"].startswith("photos")
    told = [line for line in found.missing if line.startswith("Poses passed over")]
    assert "groundtruth.txt (a trajectory by time)" in told[0] and "camera.txt" in told[0] and len(told) == 4
    for file, fix in (("scan/run.mcap", "no reader"), ("pose/0.txt", "no reader"), ("kitti/odometry.csv", "rgb.txt")):
        assert any(file in line and fix in line for line in told), file
    # one form is taken, and the other is named
    kitchen.model(f"rgb/{forms.STAMP:.6f}.png")
    kitchen.text("camera.txt", "PINHOLE 640 480 525 525 320 240")
    found = draft(project, kitchen.root, form="TUM RGB-D")
    assert dict(found.rows)["poses"] == f"{COUNT} of {COUNT}"
    assert any("model/images.txt (a model or recording)" in line for line in found.missing)


def test_tums_own_cameras_are_known(tmp_path, project):
    kitchen = room(tmp_path / "rgbd_dataset_freiburg2_desk")
    forms.tum_without_camera(kitchen)
    rows = dict(draft(project, kitchen.root).rows)
    assert rows["form"].startswith("TUM RGB-D") and rows["cameras"] == "1 FULL_OPENCV"


@pytest.mark.parametrize("write", [forms.blender, forms.ace_zero, forms.polycam, forms.openmvg])
def test_photos_without_a_file_are_counted(write, kitchen, project, caplog):
    write(kitchen)
    next(path for path, i in kitchen.photos.items() if i == 1).unlink()
    rows = dict(draft(project, kitchen.root, skip_missing=True).rows)
    assert rows["photos"].startswith("11 ") and rows["photos"].endswith("; 1 without a file are left out")
    # lists and phones' folders may name more photos than there are
    told = "1 of 12 photos have no file under" in caplog.text
    assert told == (write in (forms.blender, forms.openmvg))


def test_whether_a_model_has_points_in_text_of_any_encoding(kitchen):
    forms.colmap_by_hand(kitchen)
    source = source_of(detect_forms(kitchen.root)[0])
    for text, points in (("# none\n", False), ("# é\n1 0 0 0 1 1 1 0.5 1 0\n", True)):
        for encoding in ("utf-8-sig", "utf-16"):
            kitchen.text("model/points3D.txt", text, encoding)
            assert source.has_points(kitchen.root) == points


def test_ace_zeros_unsure_poses_are_none(kitchen, project):
    forms.ace_zero(kitchen)
    rows = (kitchen.root / "poses_final.txt").read_text().splitlines()
    kitchen.text("poses_final.txt", [f"{row.rpartition(' ')[0]} 20" for row in rows])
    assert dict(draft(project, kitchen.root).rows)["poses"] == f"0 of {COUNT}"


def test_cameras_that_lists_can_have():
    camera = camera_of_fields(["pinhole", "640.0", "480", "500", "500", "320", "240"], "list")
    assert (camera.width, camera.height) == (640, 480)
    with pytest.raises(ScrflowError, match="whole"):
        camera_of_fields(["PINHOLE", "640.5", "480", "1", "1", "1", "1"], "list")


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ("a/1.jpg", "a/1.jpg"),
        ("b\\1.JPG", "b/1.jpg"),
        ("./a/../a/1", "a/1.jpg"),
        ("/home/me/set/a/1.png", "a/1.jpg"),
        ("C:\\set\\images\\top.jpeg", "images/top.jpg"),
        ("top", "images/top.jpg"),
        ("c/1.jpg", None),
        ("both.png", "images/both.png"),
        ("cafe\u0301", "caf\u00e9.jpg"),
        ("", None),
    ],
)
def test_names_of_photos(listed, found):
    photos = ["a/1.jpg", "b/1.jpg", "images/top.jpg", "images/top.webp", "depth/both.png", "images/both.png"]
    assert PhotoNames([*photos, "caf\u00e9.jpg"]).find(listed, "x") == found


def test_a_name_of_several_photos():
    with pytest.raises(ScrflowError, match=r"list: 1\.jpg fits several photos \(a/1\.jpg, b/1\.jpg\); name the folder"):
        PhotoNames(["a/1.jpg", "b/1.jpg"]).find("1.jpg", "list")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_of_other_systems(encoding, tmp_path):
    (tmp_path / "list.txt").write_bytes("é.jpg\r\n2.jpg\r3.jpg\n".encode(encoding))
    assert read_text(tmp_path / "list.txt") == "é.jpg\n2.jpg\n3.jpg\n"


def write_bag(path: Path, kitchen: Room, storage: StoragePlugin, raw: bool) -> None:
    """A rosbag2 of photos, CameraInfo, and odometry of a robot with the camera; or raw photos and the camera's pose."""
    types = get_typestore(Stores.ROS2_HUMBLE)
    T = {name.rpartition("/")[2]: kind for name, kind in types.types.items()}

    def header(i: int, frame: str):
        return T["Header"](stamp=T["Time"](sec=100 + i, nanosec=250_000_000), frame_id=frame)

    def pose(m: np.ndarray):
        q = Rotation.from_matrix(m[:3, :3]).as_quat()
        return T["Point"](*m[:3, 3]), T["Quaternion"](*q)

    mount = np.eye(4)  # of the camera on the robot
    mount[:3, :3], mount[:3, 3] = Rotation.from_euler("xyz", [-90, 0, -90], degrees=True).as_matrix(), (0.1, 0.0, 0.4)
    K = np.array([kitchen.focal, 0, 319.5, 0, kitchen.focal, 239.5, 0, 0, 1])
    roi = T["RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    with Writer(path, version=9, storage_plugin=storage) as bag:

        def send(topic: str, kind: str, message, i: int) -> None:
            if topic not in topics:
                topics[topic] = bag.add_connection(topic, kind, typestore=types)
            bag.write(topics[topic], (100 + i) * 10**9, types.serialize_cdr(message, kind))

        topics: dict = {}
        if not raw:
            position, rotation = pose(mount)
            where = T["Transform"](T["Vector3"](position.x, position.y, position.z), rotation)
            still = T["TransformStamped"](header(0, "base_link"), "cam_optical", where)
            send("/tf_static", "tf2_msgs/msg/TFMessage", T["TFMessage"]([still]), 0)
        for i in range(COUNT):
            info = T["CameraInfo"](
                header(i, "cam_optical"), 480, 640, "plumb_bob", np.zeros(5), K, K, np.zeros(12), 0, 0, roi
            )
            send("/cam/camera_info", "sensor_msgs/msg/CameraInfo", info, i)
            data = np.frombuffer(kitchen.sources[i].read_bytes(), np.uint8)
            if raw:
                pixels = np.asarray(Image.open(kitchen.sources[i]).convert("RGB"))[..., ::-1].ravel()
                message = T["Image"](header(i, "cam_optical"), 480, 640, "bgr8", 0, 3 * 640, pixels)
                send("/cam/image_raw", "sensor_msgs/msg/Image", message, i)
                stamped = T["PoseStamped"](header(i, "map"), T["Pose"](*pose(kitchen.world_from_cam(i))))
                send("/slam/pose", "geometry_msgs/msg/PoseStamped", stamped, i)
                continue
            message = T["CompressedImage"](header(i, "cam_optical"), "jpeg", data)
            send("/cam/image_raw/compressed", "sensor_msgs/msg/CompressedImage", message, i)
            robot = T["PoseWithCovariance"](
                T["Pose"](*pose(kitchen.world_from_cam(i) @ np.linalg.inv(mount))), np.zeros(36)
            )
            none = T["TwistWithCovariance"](T["Twist"](T["Vector3"](0, 0, 0), T["Vector3"](0, 0, 0)), np.zeros(36))
            send("/odom", "nav_msgs/msg/Odometry", T["Odometry"](header(i, "odom"), "base_link", robot, none), i)


@pytest.mark.parametrize(("storage", "raw"), [(StoragePlugin.SQLITE3, False), (StoragePlugin.MCAP, True)])
def test_a_ros_bag(storage, raw, kitchen, project, tmp_path):
    write_bag(tmp_path / "run", kitchen, storage, raw)
    assert chosen_form(NewScene(name="place", path=tmp_path / "run")).form == "ROS bag"
    bag = unpack_bag(tmp_path / "run", tmp_path / "out", max_frames=6)
    assert (bag.photos, bag.of, bag.posed) == (6, COUNT, True)
    kept = np.linspace(0, COUNT - 1, 6).round().astype(int).tolist()
    photos = sorted((tmp_path / "out/rgb").iterdir())
    kitchen.photos = {path.resolve(): i for path, i in zip(photos, kept, strict=True)}
    found = draft(project, tmp_path / "out")
    assert dict(found.rows)["unit"] == "m"
    scene = scene_of(found, tmp_path)
    assert len(scene.mapping) + len(scene.queries) == 6
    check_values(scene, kitchen)


def test_a_damaged_ros_bag(kitchen, tmp_path):
    write_bag(tmp_path / "run", kitchen, StoragePlugin.MCAP, raw=True)
    recorded = next((tmp_path / "run").glob("*.mcap"))
    recorded.write_bytes(recorded.read_bytes()[: recorded.stat().st_size // 2])
    with pytest.raises(ScrflowError, match="run: damaged, or not a ROS bag"):
        unpack_bag(tmp_path / "run", tmp_path / "out", 6)
    assert not (tmp_path / "out").exists()
