"""Photos of the demo in the layouts that datasets are published in (SYNTHETIC).

They are written by matrices and text alone, in the datasets' own conventions, with SciPy's rotations.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from scrflow.scene.colmap_model import View, read_model, views_of_model

DEMO_FOLDER = Path(__file__).resolve().parents[2] / "demo"
DEMO = {view.name: view for view in views_of_model(read_model(DEMO_FOLDER / "model"))}
WIDTH, HEIGHT = 512, 384
FOCAL = 400.0  # of the demo's mapping photos, which have no distortion


def wxyz(rotations: np.ndarray) -> np.ndarray:
    """[..., 4] quaternions of matrices [..., 3, 3]."""
    return np.roll(Rotation.from_matrix(rotations).as_quat(), 1, axis=-1)


def world_from_cam(cam_from_world: np.ndarray) -> np.ndarray:
    """[4, 4]"""
    return np.linalg.inv(np.vstack([cam_from_world, [0, 0, 0, 1]]))


def copy_photo(name: str, to: Path, size: tuple[int, int] | None = None) -> None:
    """A photo of the demo, in the format of the new name."""
    to.parent.mkdir(parents=True, exist_ok=True)
    if to.suffix == ".jpg":
        shutil.copy(DEMO_FOLDER / "images" / name, to)
    else:
        with Image.open(DEMO_FOLDER / "images" / name) as image:
            image.resize(size or image.size).save(to, compress_level=1)


def write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


# ------------------------------------------------------------------------------- VisualSFM, Aachen, Cambridge Landmarks


@dataclass(frozen=True)
class Replica:
    """Cameras of N demo images and P points before them; pixels are from the top-left corner (COLMAP's)."""

    photos: list[str]  # names of the demo's images
    poses: np.ndarray  # [N, 3, 4] cam_from_world
    focal: np.ndarray  # [N] px
    radial: np.ndarray  # [N] VisualSFM's
    xyz: np.ndarray  # [P, 3]
    seen: list[list[tuple[int, np.ndarray]]]  # of each point: (image, pixel from the principal point)

    def centres(self) -> np.ndarray:
        """[N, 3]"""
        return -np.einsum("nji,nj->ni", self.poses[:, :, :3], self.poses[:, :, 3])


def measured(ideal: np.ndarray, r: float) -> np.ndarray:
    """Distances d with d (1 + r d^2) = ideal, by Newton: where VisualSFM's camera sees what is at ``ideal`` / 1."""
    d = ideal.copy()
    for _ in range(20):
        d -= (d * (1 + r * d**2) - ideal) / (1 + 3 * r * d**2)
    return d


def replica(count: int, radial: float, every: int = 3, points: int = 40, vary_focal: bool = True) -> Replica:
    """``count`` of the demo's mapping images with ``points`` made-up points before each."""
    rng = np.random.default_rng(5)
    names = (DEMO_FOLDER / "mapping.txt").read_text().split()[: count * every : every]
    poses = np.stack([DEMO[name].cam_from_world for name in names])
    focal = FOCAL * (1 + 0.01 * np.arange(count) * vary_focal)
    r = radial * np.linspace(-1, 1, count)
    depth = rng.uniform(4, 20, (count, points))
    rays = rng.uniform(-0.45, 0.45, (count, points, 2)) * (1, 0.75)
    local = np.concatenate([rays, np.ones_like(depth)[..., None]], 2) * depth[..., None]
    xyz = np.einsum("nji,npj->npi", poses[:, :, :3], local - poses[:, None, :, 3]).reshape(-1, 3)
    seen: list[list[tuple[int, np.ndarray]]] = [[] for _ in xyz]
    for i, pose in enumerate(poses):
        p = xyz @ pose[:, :3].T + pose[:, 3]
        for j in np.flatnonzero(p[:, 2] > 0.5):
            ideal = p[j, :2] / p[j, 2]
            norm = np.linalg.norm(ideal)
            if norm < 1:
                m = focal[i] * ideal / norm * measured(np.array([norm]), r[i])
                if (np.abs(m) < (WIDTH / 2 - 1, HEIGHT / 2 - 1)).all():
                    seen[j].append((i, m))
    kept = [j for j, views_of in enumerate(seen) if len(views_of) >= 2]
    return Replica(names, poses, focal, r, xyz[kept], [seen[j] for j in kept])


def write_nvm(path: Path, rep: Replica, names: list[str], colmap: bool = False) -> None:
    """As VisualSFM writes it, or as COLMAP exports it (other blanks, measurements from the top-left corner)."""
    separator = " " if colmap else "\t"
    lines = ["NVM_V3 ", " " if colmap else "", f"{len(names)}  " if colmap else f"{len(names)}"]
    for name, f, q, c, r in zip(names, rep.focal, wxyz(rep.poses[:, :, :3]), rep.centres(), rep.radial, strict=True):
        numbers = " ".join(f"{v:.12g}" for v in (f, *q, *c, r))
        lines.append(f"{name}{separator}{numbers} 0{'' if colmap else ' '}")
    lines += ["", str(len(rep.xyz))]
    shift = np.array([WIDTH / 2, HEIGHT / 2]) if colmap else np.zeros(2)
    for k, (p, seen) in enumerate(zip(rep.xyz, rep.seen, strict=True)):
        views = " ".join(f"{i} {k} {x:.8g} {y:.8g}" for i, (x, y) in ((i, m + shift) for i, m in seen))
        lines.append(f"{p[0]:.12g} {p[1]:.12g} {p[2]:.12g} {k % 256} 20 30 {len(seen)} {views}{'' if colmap else ' '}")
    if not colmap:  # VisualSFM ends with an empty model and a list of PLY files
        lines += ["", "", "0", "", "#the last part of NVM file points to the PLY files", "0", ""]
    write_lines(path, lines)


DAY = [f"query/day/milestone/2010-10-30_17-47-{i}.jpg" for i in (25, 33, 46)]
NIGHT = [f"query/night/nexus5x/IMG_20161227_16{i}.jpg" for i in (2334, 2404)]


def db(i: int) -> str:
    return f"db/{1000 + i}.jpg"


def demo_queries() -> dict[str, View]:
    """Aachen's names -> the demo's queries under them."""
    names = [
        *(DEMO_FOLDER / "queries_day.txt").read_text().split()[:3],
        *(DEMO_FOLDER / "queries_night.txt").read_text().split()[:2],
    ]
    return dict(zip([*DAY, *NIGHT], [DEMO[n] for n in names], strict=True))


def write_queries(root: Path, images: str) -> None:
    queries = demo_queries()
    for condition, names in (("day", DAY), ("night", NIGHT)):
        lines = []
        for name in names:
            camera = queries[name].camera
            params = camera.params if camera.model.name == "SIMPLE_RADIAL" else [*camera.params[1:], 0.0]
            numbers = " ".join(f"{v:.9g}" for v in params)
            lines.append(f"{name} SIMPLE_RADIAL {camera.width} {camera.height} {numbers}")
        write_lines(root / f"queries/{condition}_time_queries_with_intrinsics.txt", lines)
    for name, view in queries.items():
        copy_photo(view.name, root / images / name)


def write_v10(root: Path, rep: Replica) -> Path:
    for i, photo in enumerate(rep.photos):
        copy_photo(photo, root / "images/images_upright" / db(i))
    write_nvm(root / "3D-models/aachen_cvpr2018_db.nvm", rep, [db(i) for i in range(len(rep.photos))], colmap=True)
    camera = f"SIMPLE_RADIAL {WIDTH} {HEIGHT} {FOCAL} {WIDTH / 2} {HEIGHT / 2} 0"
    lines = [f"{db(i)} {camera}" for i in range(len(rep.photos))]
    write_lines(root / "3D-models/database_intrinsics.txt", lines[::-1])  # in another order
    write_queries(root, "images/images_upright")
    return root


COUNT, MAPPING = 9, 6


def name(i: int) -> str:
    return f"seq{1 if i < MAPPING else 3}/frame{i + 1:05d}.png"


def write_list(path: Path, rep: Replica, images: range) -> None:
    lines = ["Visual Landmark Dataset V1", "ImageFile, Camera Position [X Y Z W P Q R]", ""]
    for i in images:
        values = [*rep.centres()[i], *wxyz(rep.poses[:, :, :3])[i]]
        lines.append(f"{name(i)} " + " ".join(f"{v:.6f}" for v in values))
    write_lines(path, lines)


def write_cambridge(folder: Path, rep: Replica) -> None:
    """``folder`` as an archive has it, of the first COUNT images of ``rep``."""
    for i, photo in enumerate(rep.photos):
        copy_photo(photo, folder / name(i))
    write_nvm(folder / "reconstruction.nvm", rep, [name(i).replace(".png", ".jpg") for i in range(COUNT)])
    write_list(folder / "dataset_train.txt", rep, range(MAPPING))
    write_list(folder / "dataset_test.txt", rep, range(MAPPING, COUNT))


# ------------------------------------------------------------------------------------------------------------ kapture

HYUNDAI_MAPPING = [f"mapping/{i:03d}.jpg" for i in range(0, 120, 12)]
VALIDATION = ["day/000.jpg", "day/007.jpg"]
TEST = ["night/003.jpg"]
FOLDER = "HyundaiDepartmentStore/1F/release"
# two cameras of the rig, as sensor_from_rig; a phone is on no rig
RIG = {
    "40027089": (Rotation.from_euler("xyz", [4, 88, -2], degrees=True), np.array([0.1, -0.3, 0.7])),
    "40029628": (Rotation.from_euler("xyz", [-7, -31, 178], degrees=True), np.array([0.0, 1.2, -0.4])),
}


def opencv(view: View) -> str:
    """``w, h, fx, fy, cx, cy, k1, k2, p1, p2`` of the demo's pinhole and simple radial cameras: the same lens."""
    p = view.camera.params.tolist()
    values = [*p, 0.0, 0, 0, 0] if view.camera.model.name == "PINHOLE" else [p[0], *p, 0, 0, 0]
    return ", ".join(map(str, (view.camera.width, view.camera.height, *values)))


def seven(rotation: Rotation, translation: np.ndarray) -> str:
    return ", ".join(map(str, (*wxyz(rotation.as_matrix()).tolist(), *translation.tolist())))


def pose_of(view: View) -> str:
    return seven(Rotation.from_matrix(view.cam_from_world[:, :3]), view.cam_from_world[:, 3])


def rig_pose(view: View, sensor: str) -> str:
    """rig_from_world of a rig whose ``sensor`` sees the view: x_rig = R_s^T (R x + t - t_s)."""
    rotation, translation = RIG[sensor]
    R, t = Rotation.from_matrix(view.cam_from_world[:, :3]), view.cam_from_world[:, 3]
    return seven(rotation.inv() * R, rotation.inv().apply(t - translation))


def table(path: Path, header: str, lines: list[str]) -> None:
    write_lines(path, ["# kapture format: 1.1", header, *lines])


def write_kapture(folder: Path, names: list[str], rig: bool = False, poses: bool = True) -> None:
    """A kapture folder as kapture writes it: padded ids, lidar beside the cameras, no trajectories for a test set."""
    sensors, trajectories, records = [], [], []
    for i, name in enumerate(names):
        device = sorted(RIG)[i % 2] if rig else "S9phone"
        if i < (2 if rig else 1):
            sensors.append(f"{device}, basler, camera, OPENCV, {opencv(DEMO[name])}")
        # the rig stands elsewhere for the other camera's image, so that each has a time of its own
        time = 1566545000 + i // 2 + 1000 * (i % 2) if rig else 1566545000 + i
        path = f"{device}_{time}.jpg"
        records.append(f"{time}, {device}, {path}")
        trajectories.append(
            f"{time}, rig_1F, {rig_pose(DEMO[name], device)}" if rig else f"{time}, {device}, " + pose_of(DEMO[name])
        )
        copy_photo(name, folder / "sensors/records_data" / path)
    where = folder / "sensors"
    header = "# sensor_device_id, name, sensor_type, [sensor_params]+"
    table(where / "sensors.txt", header, [*sensors, "lidar0, , lidar"])
    table(where / "records_camera.txt", "# timestamp, device_id, image_path", records)
    table(where / "records_lidar.txt", "# timestamp, device_id, point_cloud_path", ["1566545000, lidar0, pcs/0.pcd"])
    if rig:
        lines = [f"rig_1F, {name}, {seven(*pose)}" for name, pose in RIG.items()]
        table(where / "rigs.txt", "# rig_device_id, sensor_device_id, qw, qx, qy, qz, tx, ty, tz", lines)
    if poses:
        header = "# timestamp, device_id, qw, qx, qy, qz, tx, ty, tz"
        trajectories.append("1566545000,  lidar0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0")
        table(where / "trajectories.txt", header, trajectories)


def write_hyundai(root: Path) -> None:
    """Mapping images by a rig of two cameras, validation images by a phone, and a test set without poses."""
    write_kapture(root / FOLDER / "mapping", HYUNDAI_MAPPING, rig=True)
    write_kapture(root / FOLDER / "validation", VALIDATION)
    write_kapture(root / FOLDER / "test", TEST, poses=False)


# ------------------------------------------------------------------------------------------------- Map-free, Wayspots

PINHOLES = [view for view in DEMO.values() if view.camera.model.name == "PINHOLE"]
SEQUENCES = {"seq0": PINHOLES[0:60:10], "seq1": PINHOLES[5:60:10]}


def write_mapfree(scene: Path, sequences: dict[str, list[View]]) -> None:
    """Frames with gaps, intrinsics and poses of all sequences in one list each, as in s00000."""
    intrinsics, poses = ["# frame fx fy cx cy w h"], ["# frame qw qx qy qz tx ty tz"]
    for sequence, views in sequences.items():
        for i, view in enumerate(views):
            name = f"{sequence}/frame_{2 * i:05d}.jpg"
            fx, fy, cx, cy = view.camera.params
            intrinsics.append(f"{name} {fx:.4f} {fy:.4f} {cx:.4f} {cy:.4f} {view.camera.width} {view.camera.height}")
            numbers = (*wxyz(view.cam_from_world[:, :3]), *view.cam_from_world[:, 3])
            poses.append(" ".join([name, *(f"{v:.16f}" for v in numbers)]))
            copy_photo(view.name, scene / name)
    write_lines(scene / "intrinsics.txt", intrinsics)
    write_lines(scene / "poses.txt", poses)
    np.savez(scene / "overlaps.npz", idxs=np.zeros((0, 4), np.uint16), overlaps=np.zeros(0))


def write_wayspots(root: Path, place: str, sequences: dict[str, list[View]]) -> None:
    """Two scans as ``train`` and ``test``: files named alike in rgb, poses (world_from_cam) and calibration."""
    for split, views in zip(("train", "test"), sequences.values(), strict=True):
        folder = root / f"wayspots_{place}" / split
        for kind in ("poses", "calibration"):
            (folder / kind).mkdir(parents=True)
        for i, view in enumerate(views):
            copy_photo(view.name, folder / f"rgb/frame_{i:05d}.jpg")
            np.savetxt(folder / f"poses/frame_{i:05d}.txt", world_from_cam(view.cam_from_world))
            np.savetxt(folder / f"calibration/frame_{i:05d}.txt", view.camera.calibration_matrix())


# ------------------------------------------------------------------------------------------------ 7-Scenes, 12-Scenes

# what ACE's setup applies, typed from the calibration's page with the digits that matter here (0.1 mm, 0.001 degrees)
COLOUR_FROM_DEPTH = np.array(
    [
        [0.99996518, 0.00267651, -0.00790410, -0.02555894],
        [-0.00274093, 0.99996303, -0.00815045, 0.00010110],
        [0.00788199, 0.00817183, 0.99993555, 0.00203183],
        [0, 0, 0, 1],
    ]
)


def demo_views(count: int) -> list[View]:
    """Photos that look at each other's surroundings."""
    return [view for view in DEMO.values() if view.name.startswith("mapping/")][:count]


def matrix_text(matrix: np.ndarray) -> str:
    """As in the datasets: ``9.9998e-001 <tab>`` and so on, three digits of exponent."""
    lines = []
    for row in matrix:
        fields = (f"{v:.9e}" for v in row)
        lines.append("".join(f" {f[:-2]}0{f[-2:]}\t" for f in fields))
    return "\r\n".join(lines) + "\r\n"


def list_line(name: str, cam_from_world: np.ndarray, focal: float) -> str:
    q = " ".join(f"{v:.6g}" for v in wxyz(cam_from_world[:, :3]))
    t = " ".join(f"{v:.6f}" for v in cam_from_world[:, 3])
    return f"{name} {q} {t} {focal:g}"


def seven_replica(data: Path) -> dict[str, np.ndarray]:
    """chess of six frames in two sequences, demo photos at 640x480; name -> cam_from_world of the colour camera."""
    root = data / "7scenes/chess"
    poses, lines = {}, {"train": [], "test": []}
    for i, view in enumerate(demo_views(8)):
        stem = f"seq-01/frame-{i:06d}" if i < 5 else f"seq-03/frame-{i - 5:06d}"
        name, pose = f"{stem}.color.png", view.cam_from_world
        copy_photo(view.name, root / name, (640, 480))
        # world_from_depth = world_from_colour . colour_from_depth
        (root / f"{stem}.pose.txt").write_text(matrix_text(world_from_cam(pose) @ COLOUR_FROM_DEPTH))
        poses[name] = pose
        lines["train" if i < 5 else "test"].append(list_line(name, pose, FOCAL * 640 / 512))
    for part, listed in lines.items():
        path = data / f"7scenes/visloc_pseudo_gt_limitations/pgt/sfm/7scenes/chess_{part}.txt"
        write_lines(path, listed[::-1])
    (root / "TrainSplit.txt").write_text("sequence1\r\n")
    (root / "TestSplit.txt").write_text("sequence3\r\n")
    return poses


INFO = """m_versionNumber = 4
m_sensorName = StructureSensor
m_colorWidth = 512
m_colorHeight = 384
m_depthWidth = 640
m_depthHeight = 480
m_depthShift = 1000
m_calibrationColorIntrinsic = 400 0 256.5 0 0 401 191.5 0 0 0 1 0 0 0 0 1
m_calibrationColorExtrinsic = 1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1
m_calibrationDepthIntrinsic = 572 0 320 0 0 572 240 0 0 0 1 0 0 0 0 1
m_calibrationDepthExtrinsic = 1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1
m_frames.size = 10
"""
LOST = ("data/frame-000001.color.jpg", "data/frame-000006.color.jpg")  # a query and a mapping frame


def twelve_replica(data: Path) -> dict[str, np.ndarray]:
    """apt1/kitchen of ten demo photos; the first three are the test sequence, two frames are lost."""
    root = data / "12scenes/apt1/kitchen"
    lists = data / "12scenes/apt1/visloc_pseudo_gt_limitations-637e4d4/pgt/sfm/12scenes"
    poses, lines = {}, {"test": [], "train": []}
    for i, view in enumerate(demo_views(10)):
        name, pose = f"data/frame-{i:06d}.color.jpg", view.cam_from_world
        copy_photo(view.name, root / name)
        poses[name] = pose
        text = matrix_text(world_from_cam(pose)).replace("\r", "")
        text = "-1.#INF -1.#INF -1.#INF -1.#INF\n" * 4 if name in LOST else text
        (root / name.replace(".color.jpg", ".pose.txt")).write_text(text)
        if name not in LOST:
            lines["test" if i < 3 else "train"].append(list_line(name, pose, FOCAL))
    for part, listed in lines.items():
        write_lines(lists / f"apt1_kitchen_{part}.txt", listed)
    (root / "info.txt").write_text(INFO)
    text = "sequence0 [frames=3]  [start=0 ; end=2]\nsequence1 [frames=7]  [start=3 ; end=9]\n"
    (root / "split.txt").write_text(text)
    return poses
