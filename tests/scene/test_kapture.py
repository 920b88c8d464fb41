"""The kapture reader on a replica of its true layout, made of the demo scene (SYNTHETIC), and the scenes it reads."""

import logging
from pathlib import Path

import numpy as np
import pytest
from replicas import DEMO, DEMO_FOLDER, FOLDER, HYUNDAI_MAPPING, TEST, VALIDATION, pose_of, seven, write_hyundai
from scipy.spatial.transform import Rotation
from small_datasets import built, source_for, stage_of

from scrflow.config import Split
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import pose_error
from scrflow.scene.build import build_scene

SOURCE = source_for(
    "kapture",
    mapping=f"{FOLDER}/mapping",
    queries={"validation": f"{FOLDER}/validation", "test": f"{FOLDER}/test"},
)
STAGE = stage_of(SOURCE)


@pytest.fixture
def dataset(tmp_path) -> Path:
    write_hyundai(tmp_path / "data")
    return tmp_path / "data"


def image_name(root: Path, part: str, demo_name: str) -> str:
    """The replica's name of a demo image: the one with the same bytes."""
    data = (DEMO_FOLDER / "images" / demo_name).read_bytes()
    (found,) = (p for p in (root / FOLDER / part / "sensors/records_data").iterdir() if p.read_bytes() == data)
    return found.relative_to(root / FOLDER).as_posix()


def test_rigs_cameras_and_conditions(dataset, tmp_path):
    scene = built(STAGE, dataset, tmp_path / "scene")
    views = {view.name: view for view in scene.mapping}
    assert len(views) == len(HYUNDAI_MAPPING)
    points = np.random.default_rng(0).uniform((-1, -1, 2), (1, 1, 9), (50, 3))  # in front of the camera
    for name in HYUNDAI_MAPPING:
        view = views[image_name(dataset, "mapping", name)]
        # measured 4e-11 m and degrees: the demo model's rotations are exact to 4e-13, the place is 20 m from its origin
        assert max(pose_error(view.cam_from_world, DEMO[name].cam_from_world)) < 1e-9, name
        assert view.camera.model.name == "OPENCV"
        np.testing.assert_allclose(view.camera.img_from_cam(points), DEMO[name].camera.img_from_cam(points), atol=1e-9)
    conditions = {query.name: query.condition for query in scene.queries}
    expected = {image_name(dataset, "validation", n): "validation" for n in VALIDATION}
    assert conditions == {**expected, image_name(dataset, "test", TEST[0]): "test"}
    assert set(scene.query_poses) == set(expected)
    for name in VALIDATION:
        query = image_name(dataset, "validation", name)
        assert max(pose_error(scene.query_poses[query], DEMO[name].cam_from_world)) < 1e-9
        camera = next(q.camera for q in scene.queries if q.name == query)
        np.testing.assert_allclose(camera.img_from_cam(points), DEMO[name].camera.img_from_cam(points), atol=1e-9)
    assert next(iter(views)).startswith("mapping/sensors/records_data/40027089_")


def edit(root: Path, name: str, change, part: str = "mapping") -> None:
    """Change the lines (without header) of a file; ``change`` gets their list."""
    path = root / FOLDER / part / "sensors" / name
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:2] + change(lines[2:])) + "\n")


def test_a_rig_may_be_on_a_rig_and_an_own_pose_comes_first(dataset, tmp_path):
    turn, shift = Rotation.from_euler("y", 50, degrees=True), np.array([0.0, 2, 1])

    def onto_car(lines):  # rig_1F is on a car; car_from_world = rig_from_car^-1 rig_from_world
        out = []
        for line in lines:
            time, device, *numbers = line.split(", ")
            if device == "rig_1F":
                w, x, y, z, *t = map(float, numbers)
                line = (
                    f"{time}, car, {seven(turn.inv() * Rotation.from_quat([x, y, z, w]), turn.inv().apply(t - shift))}"
                )
            out.append(line)
        return [*out, f"1566545000, 40027089, {pose_of(DEMO['day/030.jpg'])}"]

    edit(dataset, "trajectories.txt", onto_car)
    edit(dataset, "rigs.txt", lambda lines: [*lines, f"car, rig_1F, {seven(turn, shift)}"])
    views = {view.name: view for view in built(STAGE, dataset, tmp_path / "scene").mapping}
    for name in (HYUNDAI_MAPPING[0], HYUNDAI_MAPPING[7]):
        expected = DEMO["day/030.jpg"] if name == HYUNDAI_MAPPING[0] else DEMO[name]
        view = views[image_name(dataset, "mapping", name)]
        assert max(pose_error(view.cam_from_world, expected.cam_from_world)) < 1e-9


def test_partial_poses_and_a_choice_of_sensors(dataset, tmp_path, caplog):
    edit(dataset, "trajectories.txt", lambda lines: [",".join([*lines[0].split(",")[:6], " , , "]), *lines[1:]])
    with caplog.at_level(logging.WARNING, "scrflow"):
        scene = built(STAGE, dataset, tmp_path / "scene")
    assert len(scene.mapping) == len(HYUNDAI_MAPPING) - 1
    assert "1 mapping images left out, without a pose in trajectories.txt" in caplog.text
    # the other camera is not asked for, so that it lacks intrinsics does not matter
    unknown = "40027089, , camera, UNKNOWN_CAMERA, 512, 384"
    edit(dataset, "sensors.txt", lambda ls: [unknown if "40027089" in s else s for s in ls])
    for part in ("validation", "test"):
        edit(dataset, "sensors.txt", lambda ls: [s.replace("S9phone", "40029628") for s in ls], part)
        edit(dataset, "records_camera.txt", lambda ls: [s.replace(" S9phone,", " 40029628,") for s in ls], part)
    chosen = stage_of(SOURCE.model_copy(update={"sensors": ("40029628",)}))
    scene = built(chosen, dataset, tmp_path / "scene")
    assert len(scene.mapping) == 5 and all("/40029628_" in view.name for view in scene.mapping)
    assert scene.query_poses == {}  # the validation poses are still those of S9phone


def test_one_folder_with_lists(dataset, tmp_path):
    source = SOURCE.model_copy(update={"queries": {}})
    with pytest.raises(ScrflowError, match=r"mapping/sensors: nothing says which images are queries"):
        build_scene(stage_of(source), dataset, tmp_path / "scene")
    scene = built(stage_of(source, Split(every=5)), dataset, tmp_path / "scene")
    assert [q.name for q in scene.queries] == ["40027089_1566545000.jpg", "40029628_1566546000.jpg"]
    assert len(scene.query_poses) == 2 and len(scene.mapping) == 8
