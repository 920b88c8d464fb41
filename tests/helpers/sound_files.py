"""Small sound files, one for each of untrusted_readers: bad ones are made from them. All are synthetic.

The fuzzer imports this module, so it takes no package that running scrflow does not need.
"""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pycolmap
import scipy.sparse
import torch
import yaml
from PIL import Image
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from scenes import scene_of, write_graph
from untrusted_readers import KEYPOINTS, NAMES

from scrflow.baseline.mapping import BaselineMap
from scrflow.baseline.mapping import write_map as write_baseline_map
from scrflow.config import (
    BaselineMapStage,
    ExtractorConfig,
    GlobalEncodingUse,
    HeadConfig,
    LocalizeConfig,
    MapStage,
    MatcherConfig,
    MatchFeaturesConfig,
    RetrievalConfig,
    RetrievalPart,
)
from scrflow.features.retrieval import Retriever
from scrflow.interop import hloc_files as hloc
from scrflow.map.format import MAP_FORMAT, pack
from scrflow.scene.colmap_model import View, model_with_points
from scrflow.scene.lists import pose_line, query_line
from scrflow.scene.model import Query
from scrflow.storage.artifact import Stamp, create_h5, write_safetensors
from scrflow.storage.fetch import unpack, write_list
from scrflow.training.head import Head

CAMERA = pycolmap.Camera(model="PINHOLE", width=32, height=24, params=[30, 30, 16, 12])
POSES = {name: np.c_[np.eye(3), [i, 0, 0]] for i, name in enumerate(NAMES)}
SIFT = ExtractorConfig(name="sift", max_keypoints=64)
HEAD = HeadConfig(width=32, hidden_ratio=1, blocks=1, clusters=3, refine_blocks=1, frequencies=4)
RETRIEVAL = RetrievalConfig(kind="vlad", encoder="sift", clusters=4, keypoints=40, dim=5, pq_bytes=3)
MAP_STAGE = MapStage(
    extractor=SIFT,
    global_encoding=GlobalEncodingUse(name="node2vec"),
    head=HEAD,
    retrieval=RETRIEVAL,
    retrieval_extractor=SIFT,
    own_encoding=False,
    localize=LocalizeConfig(hypotheses=2, iterations=100),
    thresholds=((0.05, 5.0), (0.5, 5.0)),
    unit="m",
    seed=1,
)
_IDENTITY = " ".join(str(v) for v in np.eye(4).ravel())


# reader -> its file or folder
_FILES = {
    **{"archive": "a.zip", "graph": "graph.npz", "inspect": "graph.npz", "weights": "weights.pth"},
    **{"hloc features": "features.h5", "hloc matches": "matches.h5", "hloc descriptors": "descriptors.h5"},
    **{"map": "map.safetensors", "pca": "pca.safetensors", "baseline map": "map.h5"},
    **{name: name for name in ("fetched", "scene", "colmap", "config", "papers")},
}


def write_all(root: Path) -> dict[str, Path]:
    """Reader -> its file or folder under ``root``."""
    torch.manual_seed(0)
    for write in (_archives, _hloc, _tensors, _baseline_map, _scene, _configs):
        write(root)
    write_graph(root / "graph.npz", scipy.sparse.csr_array([[0, 0.5, 0], [0.5, 0, 0.2], [0, 0.2, 0]]), NAMES)
    torch.save({"weight": torch.zeros(2, 2), "bias": torch.ones(2)}, root / "weights.pth")
    return {**{reader: root / name for reader, name in _FILES.items()}, **_texts(root), **_datasets(root)}


def _archives(root: Path) -> None:
    with zipfile.ZipFile(root / "a.zip", "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("room/a.txt", b"a" * 300)
        z.writestr("room/b.txt", b"b")
    files = unpack(root / "a.zip", root / "fetched")
    write_list(root / "fetched", "a.zip", {p.relative_to(root / "fetched").as_posix(): d for p, d in files.items()})


def _hloc(root: Path) -> None:
    rng = np.random.default_rng(0)
    with create_h5(root / "features.h5", Stamp("hloc-features")) as f:
        for name, n in KEYPOINTS.items():
            points, described = rng.uniform(0, 20, (n, 2)), rng.normal(size=(n, 8))
            hloc.write_features(f, name, hloc.StoredFeatures(points, described, np.ones(n), (32, 24)))
    with create_h5(root / "matches.h5", Stamp("hloc-matches")) as f:
        hloc.write_matches(f, NAMES[0], NAMES[1], np.array([[0, 1], [3, 2]]), KEYPOINTS[NAMES[0]])
    with create_h5(root / "descriptors.h5", Stamp("retrieval")) as f:
        hloc.write_descriptors(f, {name: rng.normal(size=6) for name in NAMES})


def _texts(root: Path) -> dict[str, Path]:
    texts = {
        "poses": ("poses.txt", "".join(pose_line(n, p) + "\n" for n, p in POSES.items())),
        "query list": ("queries.txt", "".join(query_line(n, CAMERA) + "\n" for n in NAMES)),
        "cameras of photos": ("cameras.txt", "".join(query_line(n, CAMERA) + "\n" for n in NAMES)),
        "nvm": ("model.nvm", nvm_text()),
        "journal": ("out.jsonl", '{"journal of": "key"}\n{"name": "a.jpg", "pose": [1, 0, 0, 0, 0, 0, 0]}\n'),
        "table": (
            "table.csv",
            "table,set,row,label,scene,condition,metric,unit,mean,spread,n\nmain,,a,A,demo,all,recall@0,%,3.3,1.6,3\n",
        ),
        "download table": ("files.tsv", f"path\tsha256\turl\na.jpg\t{'0' * 64}\thttps://example.org/a.jpg\n"),
    }
    for name, text in texts.values():
        (root / name).write_text(text)
    return {reader: root / name for reader, (name, _) in texts.items()}


def nvm_text() -> str:
    """Three cameras, two points."""
    cameras = "".join(f"{name} 30 1 0 0 0 {-i} 0 0 0 0\n" for i, name in enumerate(NAMES))
    return f"NVM_V3\n\n3\n{cameras}\n2\n0 0 5 1 2 3 2 0 0 0 0 1 0 6 0\n1 0 5 1 2 3 2 0 1 6 0 2 0 18 0\n0\n"


def _retriever() -> Retriever:
    described = {
        "vocabulary": torch.randn(4, 128),
        "whitening_mean": torch.randn(4 * 128),
        "whitening": torch.randn(5, 4 * 128).half(),
    }
    return Retriever(NAMES, torch.randn(3, 3, 2).half(), torch.zeros(3, 3, dtype=torch.uint8), described)


def _tensors(root: Path) -> None:
    pca = {"mean": torch.randn(128), "components": torch.randn(128, 16)}
    tensors = {f"head.{k}": v.half() for k, v in Head(24, HEAD, torch.randn(3, 3), 2.5).state_dict().items()}
    tensors |= {f"pca.{k}": v for k, v in pca.items()} | {"encoding": torch.randn(3, 8)}
    tensors |= {f"retrieval.{k}": v for k, v in _retriever().tensors().items()}
    metadata = {"format": str(MAP_FORMAT), "names": json.dumps(NAMES), "output_unit": "2.5", "weights": "{}"}
    stamp = Stamp("map", MAP_STAGE.model_dump(mode="json"))
    write_safetensors(root / "map.safetensors", pack(tensors, MAP_STAGE.map), stamp, metadata)
    write_safetensors(root / "pca.safetensors", pca, Stamp("pca"))


def _baseline_map(root: Path) -> None:
    rng = np.random.default_rng(0)
    stage = BaselineMapStage(
        features=MatchFeaturesConfig(name="sift"),
        matcher=MatcherConfig(),
        neighbours=2,
        retrieval=RetrievalPart(retrieval=RETRIEVAL, extractor=SIFT),
        seed=1,
    )
    made = BaselineMap(
        stage,
        NAMES,
        rng.normal(size=(4, 3)).astype(np.float32),
        np.array([0, 2, 4, 5]),
        np.array([0, 1, 1, 2, 3], np.int32),
        rng.normal(size=(5, 8)).astype(np.float16),
        None,
        None,
        _retriever(),
    )
    write_baseline_map(root / "map.h5", made, {}, Stamp("baseline-map", stage.model_dump(mode="json")))


# ------------------------------------------------------------------------------------------------------------- folders


def _photos(folder: Path, names: tuple[str, ...] = NAMES) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 24)).save(folder / name)


def _scene(root: Path) -> None:
    views = [View(name, CAMERA, pose) for name, pose in POSES.items()]
    queries = [Query(NAMES[2], CAMERA, "all")]
    scene_of(root / "scene", root / "photos", views[:2], queries, {NAMES[2]: POSES[NAMES[2]]})
    rng = np.random.default_rng(0)
    point, view = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 0, 2, 1, 2])
    model = model_with_points(views, rng.normal(size=(3, 3)), np.zeros((3, 3), np.uint8), point, view, np.ones((6, 2)))
    for name in ("colmap", "colmap-text"):
        (root / name).mkdir()
    model.write_binary(str(root / "colmap"))
    model.write_text(str(root / "colmap-text"))


def _configs(root: Path) -> None:
    config = {
        "config/config.yaml": {"seed": 1, "retrieval": {"vlad": {"encoder": "small", "dim": 8}}},
        "config/scenes/tiny.yaml": {
            "description": "d", "licence": "l", "root": "data", "method": "quick",
            "source": {"reader": "colmap"}, "split": {"every": 2},
        },
        "config/encoders/small.yaml": {"description": "d", "licence": "l", "extractor": {"name": "sift"}},
        "config/methods/quick.yaml": {"description": "d", "encoder": "small", "localize": {"hypotheses": 1}},
        "papers/one.yaml": {"name": "P", "title": "t", "authors": "a", "venue": "v", "read": "r"},
    }  # fmt: skip
    for name, values in config.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(yaml.safe_dump(values))


def _datasets(root: Path) -> dict[str, Path]:
    """Folders of the forms that datasets are published in."""
    frames = [{"file_path": name, "transform_matrix": np.eye(4).tolist()} for name in NAMES]
    texts = {
        "kapture": {
            "sensors/sensors.txt": "# kapture format: 1.1\ncam, phone, camera, PINHOLE, 32, 24, 30, 30, 16, 12\n",
            "sensors/trajectories.txt": "# kapture format: 1.1\n0, cam, 1, 0, 0, 0, 0, 0, 0\n",
            "sensors/records_camera.txt": f"# kapture format: 1.1\n0, cam, {NAMES[0]}\n",
        },
        "nerfstudio": {"transforms.json": json.dumps({"fl_x": 30, "w": 32, "h": 24, "frames": frames})},
        "pose list": {"poses.txt": "".join(f"{pose_line(n, p)} 30\n" for n, p in POSES.items())},
        "nvm scene": {"model.nvm": nvm_text()},
        "dsac": {
            f"{split}/{kind}/0.txt": text
            for split in ("train", "test")
            for kind, text in (("poses", _IDENTITY), ("calibration", "30"))
        },
        "cambridge": {
            "dataset_train.txt": f"Visual Landmark Dataset V1\nImageFile, Pose\n\n{NAMES[0]} 0 0 0 1 0 0 0\n"
            f"{NAMES[1]} -1 0 0 1 0 0 0\n",
            "dataset_test.txt": f"Visual Landmark Dataset V1\nImageFile, Pose\n\n{NAMES[2]} -2 0 0 1 0 0 0\n",
            "reconstruction.nvm": nvm_text(),
        },
        "7-scenes": {
            "TrainSplit.txt": "sequence1\n",
            "TestSplit.txt": "sequence2\n",
            "seq-01/frame-000000.pose.txt": _IDENTITY,
            "seq-02/frame-000000.pose.txt": _IDENTITY,
        },
        "12-scenes": {
            "a/b/info.txt": "m_colorWidth = 32\nm_colorHeight = 24\n"
            "m_calibrationColorIntrinsic = 30 0 16 0 0 30 12 0 0 0 1 0 0 0 0 1\n",
            "a/b/split.txt": "sequence0 [frames=1]  [start=0 ; end=0]\n",
            "a/b/data/frame-000000.pose.txt": _IDENTITY,
            "a/b/data/frame-000001.pose.txt": _IDENTITY,
        },
        "map-free": {
            "intrinsics.txt": "seq0/frame_00000.jpg 30 30 16 12 32 24\nseq1/frame_00000.jpg 30 30 16 12 32 24\n",
            "poses.txt": "seq0/frame_00000.jpg 1 0 0 0 0 0 0\nseq1/frame_00000.jpg 1 0 0 0 1 0 0\n",
        },
    }
    texts |= _of_programs()
    images = {
        "dsac": ("train/rgb/0.png", "test/rgb/0.png"),
        "7-scenes": ("seq-01/frame-000000.color.png", "seq-02/frame-000000.color.png"),
        "12-scenes": ("a/b/data/frame-000000.color.jpg", "a/b/data/frame-000001.color.jpg"),
        "kapture": (f"sensors/records_data/{NAMES[0]}",),
        "map-free": ("seq0/frame_00000.jpg", "seq1/frame_00000.jpg"),
        **dict.fromkeys(("arkit", "opensfm"), ("0.png", "1.png", "2.png")),
        "record3d": ("rgb/0.png", "rgb/1.png", "rgb/2.png"),
    }
    for reader, files in texts.items():
        _photos(root / reader, images.get(reader, NAMES))
        for name, text in files.items():
            (root / reader / name).parent.mkdir(parents=True, exist_ok=True)
            (root / reader / name).write_text(text)
    _bag(root / "ros bag")
    return {reader: root / reader for reader in (*texts, "ros bag")}


def _of_programs() -> dict[str, dict[str, str]]:
    """Poses as other programs write them, and splits beside them."""
    frames = [{"file_path": name, "transform_matrix": np.eye(4).tolist()} for name in NAMES]
    size, identity = {"width": 32, "height": 24}, np.eye(3).ravel().tolist()
    shots = {f"{i}.png": {"rotation": [0, 0, 0], "translation": [i, 0, 0], "camera": "c"} for i in range(3)}
    lens = {**size, "projection_type": "brown", "focal_x": 1, "focal_y": 1, "k1": 0.1}
    views = [{"filename": name, "id_view": i, "id_intrinsic": 0, "id_pose": i} for i, name in enumerate(NAMES)]
    camera = {"value0": {**size, "focal_length": 30, "principal_point": [16, 12]}, "disto_k3": [0.1, 0, 0]}
    kind = {"polymorphic_id": 2147483649, "polymorphic_name": "pinhole_radial_k3"}
    poses = [{"key": i, "value": {"rotation": np.eye(3).tolist(), "center": [i, 0, 0]}} for i in range(3)]
    mvg = {
        "views": [{"key": i, "value": {"ptr_wrapper": {"data": view}}} for i, view in enumerate(views)],
        "intrinsics": [{"key": 0, "value": {**kind, "ptr_wrapper": {"data": camera}}}],
        "extrinsics": poses,
    }
    times = [f"{1305031910 + i}.5" for i in range(3)]
    csv = "#name,x,y,alt,heading,pitch,roll,f,px,py,k1,k2,k3,k4,t1,t2\n"
    bundle = "# Bundle file v0.3\n3 0\n" + "30 0.1 0\n1 0 0\n0 -1 0\n0 0 -1\n0 0 0\n" * 3
    scans = {"poses": [[0, 0, 0, 1, i, 0, 0] for i in range(3)], "K": [30, 0, 0, 0, 30, 0, 16, 12, 1]}
    return {
        "blender": {
            f"transforms_{split}.json": json.dumps({"camera_angle_x": 1, "frames": some})
            for split, some in (("train", frames[:2]), ("test", frames[2:]))
        },
        "colmap text": {
            "cameras.txt": "1 PINHOLE 32 24 30 30 16 12\n",
            "images.txt": "".join(f"{i + 1} 1 0 0 0 {i} 0 0 1 {name}\n" for i, name in enumerate(NAMES)),
            "lists/test.txt": f"{NAMES[2]}\n",
        },
        "tum": {
            "rgb.txt": "".join(f"{time} {name}\n" for time, name in zip(times, NAMES, strict=True)),
            "groundtruth.txt": "".join(f"{time} {i} 0 0 0 0 0 1\n" for i, time in enumerate(times)),
            "camera.txt": "PINHOLE 32 24 30 30 16 12\n",
        },
        "arkit": {
            f"{i}.json": json.dumps(
                {"transform": np.eye(4).tolist(), "intrinsics": [30, 0, 16, 0, 30, 12, 0, 0, 1], **size}
            )
            for i in range(3)
        },
        "record3d": {"metadata.json": json.dumps(scans)},
        "realitycapture": {"cameras.csv": csv + "".join(f"{n},0,0,0,1,2,3,30,0,0,0.1,0,0,0,0,0\n" for n in NAMES)},
        "openmvg": {"sfm_data.json": json.dumps(mvg)},
        "opensfm": {
            "reconstruction.json": json.dumps([{"cameras": {"c": lens}, "shots": shots}]),
            "split.json": json.dumps({"train": ["0.png", "1.png"], "test": ["2.png"], "of": identity}),
        },
        "bundler": {"bundle.out": bundle, "list.txt": "".join(f"{name} 0 30\n" for name in NAMES)},
    }


def _bag(path: Path) -> None:
    """Three photos with the camera's poses."""
    types = get_typestore(Stores.ROS2_HUMBLE)
    T = {name.rpartition("/")[2]: kind for name, kind in types.types.items()}
    data = io.BytesIO()
    Image.new("RGB", (32, 24)).save(data, "PNG")
    K, roi = np.array([30.0, 0, 16, 0, 30, 12, 0, 0, 1]), T["RegionOfInterest"](0, 0, 0, 0, False)
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        for i in range(3):
            header = T["Header"](stamp=T["Time"](sec=100 + i, nanosec=0), frame_id="cam")
            pose = T["Pose"](T["Point"](float(i), 0.0, 0.0), T["Quaternion"](0.0, 0.0, 0.0, 1.0))
            info = (header, 24, 32, "plumb_bob", np.zeros(5), K, K, np.zeros(12), 0, 0, roi)
            pixels = np.frombuffer(data.getvalue(), np.uint8)
            for topic, kind, message in (
                ("/cam/info", "sensor_msgs/msg/CameraInfo", T["CameraInfo"](*info)),
                ("/cam/image", "sensor_msgs/msg/CompressedImage", T["CompressedImage"](header, "png", pixels)),
                ("/pose", "geometry_msgs/msg/PoseStamped", T["PoseStamped"](header, pose)),
            ):
                known = next((c for c in bag.connections if c.topic == topic), None)
                known = known or bag.add_connection(topic, kind, typestore=types)
                bag.write(known, (100 + i) * 10**9, types.serialize_cdr(message, kind))
