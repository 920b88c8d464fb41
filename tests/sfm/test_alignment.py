"""SfM models moved to metres by the laser of Herz-Jesus-P25: as positions, as GPS made of them, as known distances."""

import numpy as np
import pycolmap
import pytest
from exif_photos import real, some_photos
from PIL import Image
from room_forms import Room, room
from scipy.spatial.transform import Rotation
from test_sfm import laser_centres, stage

from scrflow.config import SfmConfig
from scrflow.core.errors import ScrflowError
from scrflow.scene.checks import doubt, measured_range
from scrflow.scene.colmap_model import model_of_views
from scrflow.sfm.alignment import Targets, align, read_gps, read_targets
from scrflow.sfm.reconstruct import run_sfm
from scrflow.storage.artifact import read_json

HERE = (49.0195, 12.0975, 337.0)  # latitude, longitude, altitude


@pytest.fixture(scope="module")
def laser() -> dict[str, np.ndarray]:
    return laser_centres(real("herzjesu") / "gt_dense_cameras")


@pytest.fixture(scope="module")
def photos(tmp_path_factory, laser):
    """Eight photos at 480 px, with GPS in EXIF (east, north, up: the laser's x, z and -y)."""
    root = some_photos(real("herzjesu") / "images", tmp_path_factory.mktemp("metres"), 8, 480)
    to_wgs84 = pycolmap.GPSTransform(pycolmap.GPSTransformEllipsoid.WGS84)
    for path in (root / "images").iterdir():
        east, up, north = laser[path.name] * (1, -1, 1)
        degrees = to_wgs84.enu_to_ellipsoid(np.array([[east, north, up]]), *HERE)[0]
        with Image.open(path) as image:
            image.load()
        exif = Image.Exif()
        gps = exif.get_ifd(0x8825)
        gps |= {1: "N", 2: dms(degrees[0]), 3: "E", 4: dms(degrees[1]), 5: b"\x00", 6: float(degrees[2])}
        exif[0x8825] = gps
        image.save(path, exif=exif.tobytes(), quality=95)
    return root


def dms(degrees: float) -> tuple[float, float, float]:
    minutes = degrees % 1 * 60
    return float(int(degrees)), float(int(minutes)), round(minutes % 1 * 60, 5)


@pytest.fixture(scope="module")
def model(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("model") / "sfm"
    run_sfm(stage(max_features=1024), photos, out, 2)
    return out


def centres(model: pycolmap.Reconstruction) -> dict[str, np.ndarray]:
    return {model.image(i).name: model.image(i).projection_center() for i in model.reg_image_ids()}


def lengths(found: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> np.ndarray:
    """Ratios of the distances between cameras to the true ones."""
    names = sorted(found)
    pairs = [(a, b) for a in names for b in names if a < b]
    return np.array([np.linalg.norm(found[a] - found[b]) / np.linalg.norm(truth[a] - truth[b]) for a, b in pairs])


def test_gps_in_exif_gives_metres_east_north_up(photos, laser, tmp_path):
    run_sfm(stage(max_features=1024, positions="gps"), photos, tmp_path / "sfm", 2)
    report = read_json(tmp_path / "sfm/sfm.json", "sfm")["alignment"]
    assert report["to"] == "GPS" and report["photos"] == 8 and report["outliers"] == 0
    assert report["median_residual"] < 0.1 and report["scale_spread"] < 0.01
    assert report["origin"][:2] == pytest.approx(HERE[:2], abs=1e-3)
    found = centres(pycolmap.Reconstruction(str(tmp_path / "sfm")))
    assert np.allclose(lengths(found, laser), 1, atol=0.03)
    up = {name: centre[2] for name, centre in found.items()}
    assert up["0007.jpg"] - up["0000.jpg"] == pytest.approx(laser["0000.jpg"][1] - laser["0007.jpg"][1], abs=0.1)


def aligned(model, targets: Targets) -> tuple[dict, dict[str, np.ndarray]]:
    moved = pycolmap.Reconstruction(str(model))
    return align(moved, targets, 1), centres(moved)


def test_a_list_of_positions_and_what_is_wrong_with_it(photos, model, laser, tmp_path, caplog):
    names = [f"{i:04d}.jpg" for i in range(8)]
    rows = [f"{name} {' '.join(map(str, laser[name]))}" for name in names]
    (photos / "positions.txt").write_text("\n".join(rows))
    targets = read_targets(SfmConfig(positions="positions.txt"), photos, photos / "images", names)
    report, found = aligned(model, targets)
    assert all(np.linalg.norm(found[name] - laser[name]) < 0.1 for name in names) and report["outliers"] == 0
    wrong = Targets("a list", {**targets.positions, "0003.jpg": np.zeros(3) + 90})
    report, found = aligned(model, wrong)
    assert report["outliers"] == 1 and "outliers: 0003.jpg" in caplog.text
    assert np.allclose(lengths(found, laser), 1, atol=0.03)
    noise = np.random.default_rng(1).normal(0, 3, (8, 3))
    with pytest.raises(ScrflowError, match=r"do not (tell the scale|fit the model)"):
        aligned(model, Targets("a list", dict(zip(names, noise, strict=True))))
    (photos / "positions.txt").write_text("\n".join([*rows, "no.jpg 1 2 3"]))
    with pytest.raises(ScrflowError, match=r"positions\.txt: no\.jpg: no such photo"):
        read_targets(SfmConfig(positions="positions.txt"), photos, photos / "images", names)
    with pytest.raises(ScrflowError, match="GPS gives positions of 0 of 25 photos, and 3 are needed"):
        folder = real("herzjesu") / "images"
        read_targets(SfmConfig(positions="gps"), folder.parent, folder, [f"{i:04d}.jpg" for i in range(25)])


def test_known_distances(model, laser):
    def known(*pairs: tuple[str, str, float]) -> Targets:
        return Targets("known distances", {}, tuple((f"{a}.jpg", f"{b}.jpg", d) for a, b, d in pairs))

    true = float(np.linalg.norm(laser["0000.jpg"] - laser["0006.jpg"]))
    report, found = aligned(model, known(("0000", "0006", true)))
    assert np.allclose(lengths(found, laser), 1, atol=0.05) and report["residuals"] == [0]
    near = float(np.linalg.norm(laser["0001.jpg"] - laser["0005.jpg"]))
    report, _ = aligned(model, known(("0000", "0006", true), ("0001", "0005", near)))
    assert max(map(abs, report["residuals"])) < 0.1
    with pytest.raises(ScrflowError, match=r"disagree: 0000\.jpg to 0006\.jpg: .* given, .* by the others"):
        aligned(model, known(("0000", "0006", true), ("0001", "0005", 2 * near)))
    with pytest.raises(ScrflowError, match=r"no\.jpg could not be registered"):
        aligned(model, known(("0000", "no", 3)))


@pytest.fixture
def kitchen(tmp_path) -> Room:
    """Photos of redkitchen, and ``model``: their known poses in another frame and scale."""
    found = room(tmp_path / "room")
    found.all_photos()
    made = model_of_views(found.views())
    turn = Rotation.from_euler("xyz", [100, -30, 20], degrees=True).as_matrix()
    made.transform(pycolmap.Sim3d(0.37, pycolmap.Rotation3d(turn), np.array([5.0, -2, 9])))
    found.model = made
    return found


def list_of_windows(r: Room, true: np.ndarray) -> SfmConfig:
    rows = [f"C:\\scan\\IMAGES\\{i:04d}.PNG {x} {y} {z}" for i, (x, y, z) in enumerate(true)]
    r.text("survey.txt", "\r\n".join(["# name x y z", *rows, ""]), "utf-16")
    return SfmConfig(positions="survey.txt")


def gps_of_the_south_west(r: Room, true: np.ndarray) -> SfmConfig:
    """Below sea level; of a room 40 times as large, as GPS in EXIF is exact to centimetres."""
    to_wgs84 = pycolmap.GPSTransform(pycolmap.GPSTransformEllipsoid.WGS84)
    for i, (latitude, longitude, altitude) in enumerate(to_wgs84.enu_to_ellipsoid(40 * true, -33.4, -70.6, -400.0)):
        exif = Image.Exif()
        gps = {1: "S", 2: dms(-latitude), 3: "W", 4: dms(-longitude), 5: b"\x01", 6: float(-altitude)}
        exif.get_ifd(0x8825).update(gps)
        Image.new("RGB", (16, 16)).save(r.root / f"images/{i:04d}.jpg", exif=exif.tobytes())
    return SfmConfig(positions="gps")


def two_distances(r: Room, true: np.ndarray) -> SfmConfig:
    pairs = (("0000", "images/0007.JPG"), ("./0003.jpg", "0010.jpg"))
    ends = ((0, 7), (3, 10))
    given = [(*names, float(np.linalg.norm(true[a] - true[b]))) for names, (a, b) in zip(pairs, ends, strict=True)]
    return SfmConfig(known_distances=tuple(given))


@pytest.mark.parametrize("write", [list_of_windows, gps_of_the_south_west, two_distances], ids=lambda w: w.__name__)
def test_known_poses_in_another_scale(write, kitchen):
    true = np.array([-p[:, :3].T @ p[:, 3] for p in kitchen.poses])
    config = write(kitchen, true)
    names = [f"{i:04d}.jpg" for i in range(len(true))]
    report = align(kitchen.model, read_targets(config, kitchen.root, kitchen.root / "images", names), 1)
    found, size = centres(kitchen.model), 40 if write is gps_of_the_south_west else 1
    np.testing.assert_allclose(lengths(found, dict(zip(names, size * true, strict=True))), 1, atol=0.02)
    assert max(report.get("residuals", [report.get("median_residual")])) < 0.01 * size
    if write is list_of_windows:  # in its frame too
        np.testing.assert_allclose([found[name] for name in names], true, atol=1e-3)


def test_positions_in_exif_that_are_none(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    assert read_gps(tmp_path / "a.jpg") is None
    exif = Image.Exif()
    exif[0x8825] = {1: "N", 2: (0.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0)}
    Image.new("RGB", (8, 8)).save(tmp_path / "b.jpg", exif=exif.tobytes())
    assert read_gps(tmp_path / "b.jpg") is None


def test_measured_depths_and_wrong_ones():
    depths = np.concatenate([np.random.default_rng(2).uniform(1.5, 20, 5000), [-3, 0.001, 900]])
    near, far = measured_range(depths)
    assert 1.3 <= near <= 1.7 and 19 <= far <= 21 and measured_range(depths[:40]) is None
    assert doubt((0.1, 50), depths) is None and doubt((near, far), depths) is None
    assert "leaves out" in doubt((0.1, 8), depths) and "98 % lie from" in doubt((0.1, 8000), depths)
