"""SfM models moved to metres by the laser of Herz-Jesus-P25: as positions, as GPS made of them, as known distances."""

from dataclasses import dataclass

import numpy as np
import pycolmap
import pytest
from exif_photos import real, some_photos
from PIL import Image
from room_forms import Room, room
from scenes import centres_of
from scipy.spatial.transform import Rotation
from test_sfm import laser_centres, stage

from scrflow.config import SfmConfig
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import camera_centre
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
    found = centres_of(pycolmap.Reconstruction(str(tmp_path / "sfm")))
    assert np.allclose(lengths(found, laser), 1, atol=0.03)
    up = {name: centre[2] for name, centre in found.items()}
    assert up["0007.jpg"] - up["0000.jpg"] == pytest.approx(laser["0000.jpg"][1] - laser["0007.jpg"][1], abs=0.1)


@dataclass
class Kitchen(Room):
    """Photos of redkitchen, and ``model``: their known poses in another frame and scale."""

    model: pycolmap.Reconstruction | None = None

    def true(self) -> dict[str, np.ndarray]:
        """The cameras' centres by the photos' names."""
        return {f"{i:04d}.jpg": camera_centre(pose) for i, pose in enumerate(self.poses)}

    def targets(self, **sfm) -> Targets:
        return read_targets(SfmConfig(**sfm), self.root, self.root / "images", list(self.true()))

    def aligned(self, targets: Targets) -> tuple[dict, dict[str, np.ndarray]]:
        """The report, and the centres."""
        moved = pycolmap.Reconstruction(self.model)
        return align(moved, targets, 1), centres_of(moved)


@pytest.fixture
def kitchen(tmp_path) -> Kitchen:
    found = Kitchen(**vars(room(tmp_path / "room")))
    found.all_photos()
    found.model = model_of_views(found.views())
    turn = Rotation.from_euler("xyz", [100, -30, 20], degrees=True).as_matrix()
    found.model.transform(pycolmap.Sim3d(0.37, pycolmap.Rotation3d(turn), np.array([5.0, -2, 9])))
    return found


def test_a_list_of_positions_and_what_is_wrong_with_it(kitchen, caplog):
    """As Windows writes it, with paths of another machine."""
    true = kitchen.true()
    rows = [f"C:\\scan\\IMAGES\\{name[:4]}.PNG {x} {y} {z}" for name, (x, y, z) in true.items()]
    kitchen.text("survey.txt", "\r\n".join(["# name x y z", *rows, ""]), "utf-16")
    targets = kitchen.targets(positions="survey.txt")
    report, found = kitchen.aligned(targets)
    np.testing.assert_allclose([found[name] for name in true], [*true.values()], atol=1e-3)
    assert report["outliers"] == 0 and report["median_residual"] < 0.01
    wrong = Targets("a list", {**targets.positions, "0003.jpg": np.zeros(3) + 90})
    report, found = kitchen.aligned(wrong)
    assert report["outliers"] == 1 and "outliers: 0003.jpg" in caplog.text
    assert np.allclose(lengths(found, true), 1, atol=0.03)
    noise = np.random.default_rng(1).normal(0, 3, (len(true), 3))
    with pytest.raises(ScrflowError, match=r"do not (tell the scale|fit the model)"):
        kitchen.aligned(Targets("a list", dict(zip(true, noise, strict=True))))
    kitchen.text("survey.txt", ["no.jpg 1 2 3"])
    with pytest.raises(ScrflowError, match=r"survey\.txt: no\.jpg: no such photo"):
        kitchen.targets(positions="survey.txt")
    with pytest.raises(ScrflowError, match="GPS gives positions of 0 of 12 photos, and 3 are needed"):
        kitchen.targets(positions="gps")


def test_known_distances(kitchen):
    true = kitchen.true()
    one, other = (
        float(np.linalg.norm(true[f"{a}.jpg"] - true[f"{b}.jpg"])) for a, b in (("0000", "0007"), ("0003", "0010"))
    )
    first, second = ("0000", "images/0007.JPG", one), ("./0003.jpg", "0010.jpg", other)
    for known in ((first,), (first, second)):
        report, found = kitchen.aligned(kitchen.targets(known_distances=known))
        np.testing.assert_allclose(lengths(found, true), 1, atol=0.02)
        assert max(map(abs, report["residuals"])) < 0.01
    with pytest.raises(ScrflowError, match=r"disagree: 0000\.jpg to 0007\.jpg: .* given, .* by the others"):
        kitchen.aligned(kitchen.targets(known_distances=(first, (*second[:2], 2 * other))))
    with pytest.raises(ScrflowError, match=r"no\.jpg could not be registered"):
        kitchen.aligned(Targets("known distances", {}, (("0000.jpg", "no.jpg", 3.0),)))


def test_gps_south_and_west_below_sea_level(kitchen):
    """Of a room 40 times as large, as GPS in EXIF is exact to centimetres."""
    large = {name: 40 * centre for name, centre in kitchen.true().items()}
    to_wgs84 = pycolmap.GPSTransform(pycolmap.GPSTransformEllipsoid.WGS84)
    places = to_wgs84.enu_to_ellipsoid(np.array([*large.values()]), -33.4, -70.6, -400.0)
    for name, (latitude, longitude, altitude) in zip(large, places, strict=True):
        exif = Image.Exif()
        gps = {1: "S", 2: dms(-latitude), 3: "W", 4: dms(-longitude), 5: b"\x01", 6: float(-altitude)}
        exif.get_ifd(0x8825).update(gps)
        Image.new("RGB", (16, 16)).save(kitchen.root / "images" / name, exif=exif.tobytes())
    report, found = kitchen.aligned(kitchen.targets(positions="gps"))
    np.testing.assert_allclose(lengths(found, large), 1, atol=0.02)
    assert report["median_residual"] < 0.4


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
