"""Forms that people have their poses in, each written from the same photos of redkitchen, whose poses are known."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pycolmap
from exif_photos import real
from PIL import Image
from scipy.spatial.transform import Rotation

from scrflow.core.geometry import invert_pose
from scrflow.scene.colmap_model import View, model_of_views
from scrflow.scene.lists import pose_line
from scrflow.scene.readers.pose_lines import read_pose_list

COUNT, SIZE = 12, (640, 480)
GL = np.array([1.0, -1.0, -1.0, 1.0])
STAMP = 1305031910.765238  # s


@dataclass
class Room:
    """Where a form is written, and which photo each file is."""

    root: Path
    poses: list[np.ndarray]  # cam_from_world [3, 4]
    focal: float
    sources: list[Path]
    photos: dict[Path, int] = field(default_factory=dict)
    centre: tuple[float, float] = (320.0, 240.0)
    lens: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # k1 k2 p1 p2 of OpenCV

    def photo(self, name: str, i: int) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".png":
            Image.open(self.sources[i]).save(path)
        else:
            shutil.copy(self.sources[i], path)
        self.photos[path.resolve()] = i

    def all_photos(self, form: str = "images/{:04d}.jpg") -> None:
        for i in range(COUNT):
            self.photo(form.format(i), i)

    def text(self, name: str, content: str | list[str], encoding: str = "utf-8") -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else "\n".join([*content, ""])
        path.write_bytes(text.encode(encoding))

    def world_from_cam(self, i: int) -> np.ndarray:
        """[4, 4], OpenCV axes."""
        return np.vstack([invert_pose(self.poses[i]), [0, 0, 0, 1]])

    def frames(self, form: str = "images/{:04d}.jpg", only=range(COUNT)) -> list[dict]:
        return [{"file_path": form.format(i), "transform_matrix": (self.world_from_cam(i) * GL).tolist()} for i in only]

    def transforms(self, name: str = "transforms.json", encoding: str = "utf-8", frames=None, **more) -> None:
        values = {"fl_x": self.focal, "fl_y": self.focal, "cx": 320.0, "cy": 240.0, "w": 640.0, "h": 480.0}
        self.text(name, json.dumps({**values, "frames": frames or self.frames(), **more}), encoding)

    def model(self, name: str = "{:04d}.jpg", between: str = "", ids=lambda i: i + 1, encoding="utf-8") -> None:
        """COLMAP text without points3D; ``between`` comes after the line of each image."""
        camera = f"1 PINHOLE 640.0 480.0 {self.focal} {self.focal} 320 240"
        self.text("model/cameras.txt", ["# Camera list", camera], encoding)
        rows = [f"{ids(i)} {pose_line('', p).strip()} 1 {name.format(i)}\n{between}" for i, p in enumerate(self.poses)]
        self.text("model/images.txt", "# Image list\n" + "".join(rows), encoding)

    def views(self) -> list[View]:
        camera = pycolmap.Camera(model="PINHOLE", width=640, height=480, params=[self.focal, self.focal, 320, 240])
        return [View(f"{i:04d}.jpg", camera, pose) for i, pose in enumerate(self.poses)]


def room(root: Path) -> Room:
    kitchen = real("redkitchen")
    listed = read_pose_list(kitchen / "poses_sfm.txt")
    names = [line.split()[0] for line in (kitchen / "mapping.txt").read_text().splitlines() if line.strip()]
    names = names[::14][:COUNT]
    root.mkdir()
    return Room(root, [listed[n][0] for n in names], listed[names[0]][1], [kitchen / n for n in names])


# --------------------------------------------------------------------------------------------------- forms with poses


def colmap_binary(r: Room) -> None:
    r.all_photos()
    (r.root / "sparse/0").mkdir(parents=True)
    model = model_of_views(r.views())
    for image_id in model.reg_image_ids():  # with measurements of 3D points that are not there
        model.image(image_id).points2D = pycolmap.Point2DList([pycolmap.Point2D(np.array([3.0, 4.0]))])
    model.write_binary(str(r.root / "sparse/0"))
    (r.root / "sparse/0/points3D.bin").unlink()


def colmap_rig(r: Room) -> None:
    """Two cameras on a rig: every second photo hangs on the one before it."""
    r.all_photos()
    views, model = r.views(), pycolmap.Reconstruction()
    for camera_id in (1, 2):
        camera = pycolmap.Camera(
            model="PINHOLE", width=640, height=480, params=[r.focal, r.focal, 320, 240], camera_id=camera_id
        )
        model.add_camera(camera)
    first, second = (pycolmap.Rigid3d(view.cam_from_world) for view in views[:2])
    relative = second * first.inverse()
    rig = pycolmap.Rig(rig_id=1)
    rig.add_ref_sensor(pycolmap.sensor_t(pycolmap.SensorType.CAMERA, 1))
    rig.add_sensor(pycolmap.sensor_t(pycolmap.SensorType.CAMERA, 2), relative)
    model.add_rig(rig)
    for f in range(COUNT // 2):
        frame = pycolmap.Frame(frame_id=f + 1, rig_id=1, rig_from_world=pycolmap.Rigid3d(views[2 * f].cam_from_world))
        ids = [(2 * f + 1 + k, k + 1) for k in range(2)]
        for image_id, camera_id in ids:
            frame.add_data_id(pycolmap.data_t(pycolmap.sensor_t(pycolmap.SensorType.CAMERA, camera_id), image_id))
        model.add_frame(frame)
        for image_id, camera_id in ids:
            image = pycolmap.Image(
                name=views[image_id - 1].name, camera_id=camera_id, image_id=image_id, frame_id=f + 1
            )
            model.add_image(image)
        model.register_frame(f + 1)
        r.poses[2 * f + 1] = (relative * pycolmap.Rigid3d(views[2 * f].cam_from_world)).matrix()
    (r.root / "model").mkdir()
    model.write_text(str(r.root / "model"))
    for path in (r.root / "model").iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    (r.root / "model/points3D.txt").unlink()


def blender(r: Room) -> None:
    angle = 2 * math.atan(320 / r.focal)
    for split, only in SPLITS.items():
        for i in only:
            r.photo(f"{split}/r_{i}.png", i)
        frames = r.frames(f"./{split}/r_{{}}", only)
        r.text(f"transforms_{split}.json", json.dumps({"camera_angle_x": angle, "frames": frames}))


SPLITS = {"train": range(8), "val": range(8, 10), "test": range(10, COUNT)}


def instant_ngp(r: Room) -> None:
    r.all_photos()
    more = dict(zip(("k1", "k2", "p1", "p2", "cx", "cy"), (*r.lens, *r.centre), strict=True))
    r.transforms(frames=r.frames("./images/{:04d}.jpg"), aabb_scale=16, camera_angle_x=1.0, **more)


def tum(r: Room) -> None:
    r.text("camera.txt", f"pinhole 640 480 {r.focal} {r.focal} 320 240\n")
    tum_without_camera(r)


def tum_without_camera(r: Room) -> None:
    rows, rgb = ["# timestamp tx ty tz qx qy qz qw"], ["# color images"]
    for i in range(COUNT):
        t, m = STAMP + i / 3, r.world_from_cam(i)
        r.photo(f"rgb/{t:.6f}.png", i)
        rgb.append(f"{t:.6f} rgb/{t:.6f}.png")
        numbers = (*m[:3, 3], *Rotation.from_matrix(m[:3, :3]).as_quat())
        rows += [f"{t + dt:.6f} " + " ".join(f"{v:.9f}" for v in numbers) for dt in (-0.004, 0.006)]
    r.text("groundtruth.txt", rows)
    r.text("rgb.txt", rgb)


def orb_slam(r: Room) -> None:
    """Photos named by their time, and a trajectory of its own name."""
    tum(r)
    (r.root / "groundtruth.txt").rename(r.root / "KeyFrameTrajectory.txt")
    (r.root / "rgb.txt").unlink()


def tum_tabs(r: Room) -> None:
    tum(r)
    text = (r.root / "rgb.txt").read_text().replace(" rgb/", "\trgb\\").replace("\n", "\r\n")
    r.text("rgb.txt", text, "utf-8-sig")


def ace_zero(r: Room) -> None:
    r.all_photos()
    rows = [f"{pose_line(f'/home/me/room/images/{i:04d}.jpg', p)} {r.focal} {1500 + i}" for i, p in enumerate(r.poses)]
    r.text("poses_final.txt", rows)


def arkit_pose(r: Room, i: int) -> np.ndarray:
    return r.world_from_cam(i) * GL


def polycam(r: Room) -> None:
    r.all_photos("keyframes/images/{:04d}.jpg")
    for i in range(COUNT):
        m = arkit_pose(r, i)
        values = {f"t_{a}{b}": m[a, b] for a in range(3) for b in range(4)}
        values |= {"fx": r.focal, "fy": r.focal, "cx": 320.0, "cy": 240.0, "width": 640, "height": 480}
        r.text(f"keyframes/cameras/{i:04d}.json", json.dumps({**values, "blur_score": 90.0, "timestamp": i}))
    r.text("mesh_info.json", json.dumps({"alignmentTransform": np.eye(4).ravel().tolist()}))


def polycam_corrected(r: Room) -> None:
    """With poses and photos that the app has corrected; the others are off."""
    polycam(r)
    for kind in ("cameras", "images"):
        shutil.copytree(r.root / "keyframes" / kind, r.root / "keyframes" / f"corrected_{kind}")
    r.photos = {p.parent.with_name("corrected_images") / p.name: i for p, i in r.photos.items()}
    for path in (r.root / "keyframes/cameras").iterdir():
        path.write_text(json.dumps({**json.loads(path.read_text()), "t_03": 7.0}))


def scanner_app(r: Room) -> None:
    r.all_photos("frame_{:05d}.jpg")
    for i in range(COUNT + 3):  # frames without a photo
        pose = arkit_pose(r, i % COUNT).ravel().tolist()
        K = [r.focal, 0, 320, 0, r.focal, 240, 0, 0, 1]
        r.text(f"frame_{i:05d}.json", json.dumps({"cameraPoseARFrame": pose, "intrinsics": K, "time": i}))
    r.text("info.json", json.dumps({"device": "phone"}))


def arkit_by_columns(r: Room) -> None:
    """As Swift prints simd matrices, with intrinsics of a picture of twice the size."""
    r.all_photos("capture/{:04d}.JPG")
    for i in range(COUNT):
        K = [[2 * r.focal, 0, 0], [0, 2 * r.focal, 0], [640, 480, 1]]
        values = {"transform": arkit_pose(r, i).T.tolist(), "intrinsics": K, "width": 1280, "height": 960}
        r.text(f"capture/{i:04d}.json", json.dumps(values))


def record3d(r: Room) -> None:
    r.all_photos("EXR_RGBD/rgb/{}.jpg")
    poses = []
    for i in range(COUNT):
        m = arkit_pose(r, i)
        poses.append([*Rotation.from_matrix(m[:3, :3]).as_quat(), *m[:3, 3]])
    K = [r.focal, 0, 0, 0, r.focal, 0, 320, 240, 1]
    r.text("EXR_RGBD/metadata.json", json.dumps({"poses": poses, "K": K, "w": 640, "h": 480, "fps": 30}))


def record3d_unpacked(r: Room) -> None:
    """A .r3d file, unpacked."""
    record3d(r)
    (r.root / "EXR_RGBD/metadata.json").rename(r.root / "metadata")
    (r.root / "EXR_RGBD/rgb").rename(r.root / "rgbd")
    r.photos = {r.root.resolve() / "rgbd" / path.name: i for path, i in r.photos.items()}


def realitycapture(r: Room) -> None:
    r.all_photos()
    rows = ["#name,x,y,alt,heading,pitch,roll,f,px,py,k1,k2,k3,k4,t1,t2"]
    for i in range(COUNT):
        m = arkit_pose(r, i)
        yaw, pitch, roll = Rotation.from_matrix(m[:3, :3]).as_euler("ZXY", degrees=True)
        (cx, cy), (k1, k2, p1, p2) = r.centre, r.lens
        lens = (r.focal * 36 / 640, (cx - 320) / 640, (cy - 240) / 640, k1, k2, 0, 0, p1, p2)
        numbers = (*m[:3, 3], -yaw, pitch, roll, *lens)
        rows.append(f"{i:04d}.jpg," + ",".join(repr(float(v)) for v in numbers))
    r.text("cameras.csv", "\r\n".join([*rows, ""]), "utf-8-sig")


def openmvg(r: Room) -> None:
    r.all_photos()

    def wrapped(key, data, **more):
        return {"key": key, "value": {"polymorphic_id": 1073741824, "ptr_wrapper": {"id": key, "data": data}, **more}}

    size = {"width": 640, "height": 480}
    k1, k2, p1, p2 = r.lens
    camera = {**size, "focal_length": r.focal, "principal_point": r.centre}
    camera = {"value0": camera, "disto_t2": [k1, k2, 0, p1, p2]}
    views = [
        wrapped(
            i, {"local_path": "", "filename": f"{i:04d}.jpg", **size, "id_view": i, "id_intrinsic": 0, "id_pose": i}
        )
        for i in range(COUNT)
    ]
    name = {"polymorphic_id": 2147483649, "polymorphic_name": "pinhole_brown_t2"}
    poses = [
        {"key": i, "value": {"rotation": p[:, :3].tolist(), "center": (-p[:, :3].T @ p[:, 3]).tolist()}}
        for i, p in enumerate(r.poses)
    ]
    values = {"root_path": "C:/scan/images", "views": views, "intrinsics": [wrapped(0, camera, **name)]}
    r.text("out/sfm_data.json", json.dumps({**values, "extrinsics": poses, "structure": []}))


def opensfm(r: Room) -> None:
    r.all_photos()
    k1, k2, p1, p2 = r.lens
    camera = {
        "projection_type": "brown",
        "width": 640,
        "height": 480,
        "focal_x": r.focal / 640,
        "focal_y": r.focal / 640,
    }
    camera |= {"c_x": (r.centre[0] - 320) / 640, "c_y": (r.centre[1] - 240) / 640}
    camera |= {"k1": k1, "k2": k2, "p1": p1, "p2": p2, "k3": 0}
    shots = {
        f"{i:04d}.jpg": {
            "rotation": Rotation.from_matrix(p[:, :3]).as_rotvec().tolist(),
            "translation": p[:, 3].tolist(),
            "camera": "v2 phone",
        }
        for i, p in enumerate(r.poses)
    }
    r.text("reconstruction.json", json.dumps([{"cameras": {"v2 phone": camera}, "shots": shots, "points": {}}]))


def bundler(r: Room) -> None:
    r.all_photos()
    rows = ["# Bundle file v0.3", f"{COUNT} 0"]
    for p in r.poses:
        flipped = p * np.array([[1.0], [-1.0], [-1.0]])
        matrix = (*flipped[:, :3], flipped[:, 3])
        rows += [f"{r.focal} 0 0", *(" ".join(repr(float(v)) for v in row) for row in matrix)]
    r.text("bundle/bundle.out", rows)
    r.text("list.txt", [f"images/{i:04d}.jpg 0 {r.focal}" for i in range(COUNT)])


def dsac(r: Room) -> None:
    for i in range(COUNT):
        split = "test" if i % 4 == 0 else "train"
        r.photo(f"{split}/rgb/{i:04d}.png", i)
        r.text(f"{split}/calibration/{i:04d}.txt", repr(r.focal))
        if split == "train":
            rows = [" ".join(repr(float(v)) for v in row) for row in r.world_from_cam(i)]
            r.text(f"train/poses/{i:04d}.txt", rows)


# ------------------------------------------------------------------------- text as other systems and people write it


def colmap(photos: str = "images/{:04d}.jpg", **model) -> Callable[[Room], None]:
    """COLMAP text; ``model`` as in ``Room.model``."""

    def write(r: Room) -> None:
        r.all_photos(photos)
        r.model(**model)

    return write


colmap_by_hand = colmap()  # one line an image, as people write known poses


def colmap_gaps_and_comments(r: Room) -> None:
    colmap(between="# its points\n\n\n", ids=lambda i: 5 * i, encoding="utf-8-sig")(r)
    r.text("model/points3D.txt", "# 3D points\n")


def nerfstudio(
    frames: str = "images/{:04d}.jpg", photos: str = "images/{:04d}.jpg", name: str = "transforms.json", **more
) -> Callable[[Room], None]:
    """Frames of that form (ROOM is the room's folder) for photos of that form."""

    def write(r: Room) -> None:
        r.all_photos(photos)
        r.transforms(name, frames=r.frames(frames.replace("ROOM", str(r.root.resolve()))), **more)

    return write


def poselist_crlf(r: Room) -> None:
    r.all_photos("Images/IMG_{:04d}.JPG")
    rows = [f"{pose_line(f'images/img_{i:04d}.jpg', p)} {r.focal}" for i, p in enumerate(r.poses)]
    r.text("poses.txt", "\r\n".join(["# name qw qx qy qz tx ty tz f", *rows, ""]), "utf-8-sig")


# --------------------------------------------------------------------------------------------------------------- splits


def split_keys(r: Room) -> None:
    r.all_photos()
    names = [f"images/{i:04d}.jpg" for i in range(COUNT)]
    r.transforms(train_filenames=names[:8], val_filenames=names[8:], test_filenames=names[8:])


def split_val_only(r: Room) -> None:
    r.all_photos()
    names = [f"images\\{i:04d}.jpg" for i in range(COUNT)]
    r.transforms(train_filenames=names[:8], val_filenames=names[8:])


def split_lists(r: Room) -> None:
    colmap_by_hand(r)
    r.text("train.txt", "\r\n".join(f"images\\{i:04d}.jpg" for i in range(8)), "utf-8-sig")
    r.text("test.txt", [f"{i:04d}.png" for i in range(8, COUNT)])


def split_train_list(r: Room) -> None:
    split_lists(r)
    (r.root / "test.txt").unlink()


def split_json(r: Room) -> None:
    """As ScanNet++ has it: in a folder, and beside lists that name nothing here."""
    colmap_by_hand(r)
    names = [f"images\\{i:04d}.JPG" for i in range(COUNT)]
    r.text("nerf/train_test_lists.json", json.dumps({"train": names[:8], "test": names[8:], "has_masks": False}))
    r.text("nerf/lists/test.txt", names[:2])


def split_json_ids(r: Room) -> None:
    """As Nerfies has it, with names without a suffix; without a list of train, all others are mapped."""
    colmap_by_hand(r)
    ids = [f"{i:04d}" for i in range(COUNT)]
    r.text("dataset.json", json.dumps({"count": COUNT, "ids": ids, "train_ids": [], "val_ids": ids[8:]}), "utf-8-sig")


def split_lists_in_a_folder(r: Room) -> None:
    split_lists(r)
    (r.root / "splits/one").mkdir(parents=True)
    for name in ("train.txt", "test.txt"):
        (r.root / name).rename(r.root / "splits/one" / name)


def split_folders(r: Room) -> None:
    for i in range(COUNT):
        r.photo(f"images/{'train' if i < 8 else 'test'}/{i:04d}.jpg", i)
    r.model("{:04d}.jpg")
