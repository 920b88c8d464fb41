"""Photos, their poses and the camera of a ROS bag (rosbag2, or ROS 1), written in TUM's layout.

The camera's pose is followed through the bag's transforms: from the frame of the photos along ``/tf_static``, ``/tf``
and odometry up to the last frame that has a parent. Without such a chain poses of a topic are taken as the camera's.
"""

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore
from scipy.spatial.transform import Rotation

from scrflow.core.errors import ScrflowError, damage_reported
from scrflow.scene.checks import check_unused, some
from scrflow.scene.readers.pose_lines import CAMERA, pose_at
from scrflow.storage.artifact import atomic_dir

log = logging.getLogger("scrflow")
_IMAGES = ("sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/Image")
_CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
_TF = "tf2_msgs/msg/TFMessage"
_POSES = {  # type -> what gives its position and rotation
    "nav_msgs/msg/Odometry": attrgetter("pose.pose.position", "pose.pose.orientation"),
    "geometry_msgs/msg/TransformStamped": attrgetter("transform.translation", "transform.rotation"),
    "geometry_msgs/msg/PoseStamped": attrgetter("pose.position", "pose.orientation"),
    "geometry_msgs/msg/PoseWithCovarianceStamped": attrgetter("pose.pose.position", "pose.pose.orientation"),
}
_ENCODINGS = {"rgb8": "RGB", "bgr8": "BGR", "mono8": "L", "rgba8": "RGBA", "bgra8": "BGRA"}
_JPEG_QUALITY = 95
_LONGEST_CHAIN = 50


@dataclass
class _Edge:
    """Poses of a frame in its parent: one that stays, or many with their times."""

    parent: str
    static: bool
    times: list[float] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)  # x y z qx qy qz qw

    def child_from_parent(self, time: float) -> np.ndarray | None:
        """[4, 4]; None where no pose is near."""
        rows = np.stack(self.rows)
        if self.static:
            at = pose_at(0.0, np.zeros(1), rows[-1:])
        else:
            times, first = np.unique(np.array(self.times), return_index=True)
            at = pose_at(time, times, rows[first])
        return None if at is None else np.vstack([at, [0, 0, 0, 1]])


@dataclass(frozen=True)
class Unpacked:
    """What was written of a bag."""

    photos: int
    of: int  # photos in the bag
    topic: str
    posed: bool


def unpack_bag(bag: Path, out: Path, max_frames: int) -> Unpacked:
    """Write at most ``max_frames`` photos of a bag, evenly chosen, to the new folder ``out``.

    These are ``rgb/`` and ``rgb.txt``, and where the bag has them ``groundtruth.txt`` and ``camera.txt``. ScrflowError
    for a bag without photos.
    """
    check_unused(out)
    with (
        _sizes_believed(bag),
        damage_reported(bag, "not a ROS bag", "copy it again"),
        AnyReader([bag], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader,
        atomic_dir(out) as temporary,
    ):
        photos = _image_topic(reader.connections, bag)
        infos = [c for c in reader.connections if c.msgtype == _CAMERA_INFO]
        info = max(infos, key=lambda c: _common(c.topic, photos.topic), default=None)
        edges = _edges(reader)
        stamps = [stamp for _, stamp, _ in reader.messages([photos])]
        kept = set(np.linspace(0, len(stamps) - 1, min(max_frames, len(stamps))).round().astype(int).tolist())
        (temporary / "rgb").mkdir()
        rgb, truth, frame_id = [], [], ""
        for index, (_, _, raw) in enumerate(reader.messages([photos])):
            if index not in kept:
                continue
            message = reader.deserialize(raw, photos.msgtype)
            frame_id, time = message.header.frame_id, _time(message.header.stamp)
            name = _write_photo(message, temporary / "rgb" / f"{time:.6f}", bag)
            rgb.append(f"{time:.6f} rgb/{name}")
            pose = _world_from_camera(frame_id, time, edges)
            if pose is not None:
                truth.append(f"{time:.6f} " + " ".join(repr(float(v)) for v in pose))
        (temporary / "rgb.txt").write_text("\n".join([*rgb, ""]), encoding="utf-8")
        camera = None
        if info is not None:
            _, _, raw = next(reader.messages([info]))
            camera = _camera_line(reader.deserialize(raw, info.msgtype), "rect" in photos.topic, bag)
        if camera:
            (temporary / CAMERA).write_text(f"{camera}\n", encoding="utf-8")
        if truth:
            (temporary / "groundtruth.txt").write_text("\n".join([*truth, ""]), encoding="utf-8")
    if not truth:
        log.warning("%s: no poses of the frame %s of %s; the photos are taken alone", bag, frame_id, photos.topic)
    elif camera is None:
        log.warning("%s: no sensor_msgs/CameraInfo of the photos, so their poses are not taken", bag)
    return Unpacked(len(rgb), len(stamps), photos.topic, bool(truth) and camera is not None)


@contextlib.contextmanager
def _sizes_believed(bag: Path) -> Iterator[None]:
    """The library reads as many bytes at once as a record claims to have."""
    try:
        yield
    except MemoryError:
        raise ScrflowError(f"{bag}: damaged, or a record of it is larger than the memory; copy it again") from None


def _image_topic(connections: Sequence[Any], bag: Path) -> Any:
    found = [c for c in connections if c.msgtype in _IMAGES and "depth" not in c.topic.lower() and c.msgcount]
    if not found:
        topics = some(sorted({c.topic for c in connections}), 8)
        raise ScrflowError(f"{bag}: no topic of photos (sensor_msgs/Image or CompressedImage); it has {topics}")
    if len(found) > 1:
        log.warning("%s: photos of several topics: %s; the most are taken", bag, some([c.topic for c in found]))
    return max(found, key=lambda c: c.msgcount)


def _common(a: str, b: str) -> int:
    """How many parts of two topics are equal, from their start."""
    equal = [x == y for x, y in zip(a.split("/"), b.split("/"), strict=False)]
    return equal.index(False) if False in equal else len(equal)


def _time(stamp: Any) -> float:
    return stamp.sec + stamp.nanosec * 1e-9


def _edges(reader: Any) -> dict[str, _Edge]:
    """Frame -> its parent and poses in it. Poses of a topic that names no child are under the name ""."""
    edges: dict[str, _Edge] = {}
    wanted = [c for c in reader.connections if c.msgtype == _TF or c.msgtype in _POSES]
    for connection, _, raw in reader.messages(wanted):
        message = reader.deserialize(raw, connection.msgtype)
        static = connection.topic.endswith("tf_static")
        many = message.transforms if connection.msgtype == _TF else [message]
        pose_in = _POSES["geometry_msgs/msg/TransformStamped" if connection.msgtype == _TF else connection.msgtype]
        for item in many:
            child = getattr(item, "child_frame_id", "").lstrip("/")
            edge = edges.setdefault(child, _Edge(item.header.frame_id.lstrip("/"), static))
            if edge.parent == item.header.frame_id.lstrip("/"):
                p, q = pose_in(item)
                edge.times.append(_time(item.header.stamp))
                edge.rows.append(np.array([p.x, p.y, p.z, q.x, q.y, q.z, q.w], np.float64))
    return edges


def _world_from_camera(frame: str, time: float, edges: dict[str, _Edge]) -> np.ndarray | None:
    """x y z qx qy qz qw of the camera's frame in the last of its chain of parents; None without a pose."""
    at, chain = frame.lstrip("/"), []
    while at in edges and len(chain) < _LONGEST_CHAIN:
        chain.append(edges[at])
        at = edges[at].parent
    if not any(not edge.static for edge in chain):
        chain = [edges[""]] if "" in edges else []
    camera_from_world = np.eye(4)
    for edge in chain:
        step = edge.child_from_parent(time)
        if step is None:
            return None
        camera_from_world = camera_from_world @ step
    if not chain:
        return None
    m = np.linalg.inv(camera_from_world)
    return np.concatenate([m[:3, 3], Rotation.from_matrix(m[:3, :3]).as_quat()])


def _write_photo(message: Any, path: Path, bag: Path) -> str:
    if hasattr(message, "format"):
        data = bytes(message.data)
        with Image.open(io.BytesIO(data)) as image:
            suffix = {"JPEG": ".jpg", "PNG": ".png"}.get(image.format or "")
        if suffix is None:
            raise ScrflowError(f"{bag}: photos in {message.format!r} are not read; record them as JPEG or PNG")
        target = path.with_name(path.name + suffix)
        target.write_bytes(data)
        return target.name
    mode = _ENCODINGS.get(message.encoding)
    if mode is None:
        raise ScrflowError(f"{bag}: encoding {message.encoding!r} is not read; use one of {', '.join(_ENCODINGS)}")
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    pixels = rows[:, : message.width * len(mode)].reshape(message.height, message.width, -1)
    pixels = pixels[..., [mode.index(c) for c in "RGB"]] if mode != "L" else pixels[..., 0]
    target = path.with_name(f"{path.name}.jpg")
    Image.fromarray(np.ascontiguousarray(pixels)).save(target, quality=_JPEG_QUALITY, subsampling=0)
    return target.name


def _camera_line(info: Any, rectified: bool, bag: Path) -> str | None:
    """``MODEL width height params...`` of a CameraInfo, whose first pixel has its centre at (0, 0)."""
    K = np.reshape(info.p, (3, 4))[:, :3] if rectified else np.reshape(info.k, (3, 3))
    d = [0.0] * 8 if rectified else [*map(float, info.d), *[0.0] * 8][:8]
    if not K[0, 0] > 0:
        return None
    kind, params = "PINHOLE", [K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5]
    if any(d):
        if info.distortion_model in ("equidistant", "fisheye"):
            kind, params = "OPENCV_FISHEYE", [*params, *d[:4]]
        elif info.distortion_model in ("plumb_bob", "rational_polynomial"):
            kind, params = "FULL_OPENCV", [*params, *d]
        else:
            raise ScrflowError(f"{bag}: no distortion model {info.distortion_model!r} is known; rectify the photos")
    return " ".join([kind, str(info.width), str(info.height), *(repr(float(p)) for p in params)])
