"""The chains of stages that faults strike. Each chain is a scene of a tiny project with all that is made of it.

POSED is a scene with poses, whose graph counts triangulated points. PHOTOS is bare photos, posed by SfM. FETCHED comes
over https and has what the others leave out: the baseline of feature matching, depths by points and by depth images,
clusters as encodings, tables, and the report pages. Snakemake itself says which stages a chain has,
what each makes, and which stage reads which.
"""

from __future__ import annotations

import contextlib
import csv
import http.server
import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

import numpy as np
import yaml
from PIL import Image
from tiny_project import CONFIG, METHOD, REPO, SCENE, Project

from scrflow.scene.colmap_model import read_model, views_of_model
from scrflow.scene.lists import pose_line
from scrflow.storage.artifact import sha256_file

_CHUNK = 1 << 15
_SECONDS_A_CHUNK = 0.01  # some 3 MB a second, so that there is a middle to be killed in


class Site:
    """An https server of the files of ``folder``, whole or from where a Range begins, which can fail.

    SSL_CERT_FILE is set to its certificate, so the workflows that are started from this process trust it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True)
        certificate, key = folder.parent / "certificate.pem", folder.parent / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
            check=True, capture_output=True,
        )  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        os.environ["SSL_CERT_FILE"] = str(certificate)
        self.cuts: list[int] = []  # bytes after which the next transfers break off
        self.cut_all: int | None = None  # and all after these
        self.other: dict[str, bytes] = {}  # what is served in place of a file

    def url(self, name: str) -> str:
        return f"https://localhost:{self._server.server_address[1]}/{name}"

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """Whatever faults are set in the block end with it."""
        try:
            yield
        finally:
            self.cuts, self.cut_all, self.other = [], None, {}


def _handler(site: Site) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            file = site.folder / name
            if not re.fullmatch(r"[\w.-]+", name) or not file.is_file():
                self.send_error(404)
                return
            data = site.other.get(name, file.read_bytes())
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            begin = int(wanted[1]) if wanted else 0
            if begin > len(data) or (wanted and begin == len(data)):
                self.send_error(416)
                return
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(data) - begin))
            self.end_headers()
            stop = site.cuts.pop(0) if site.cuts else site.cut_all
            end = len(data) if stop is None else min(len(data), begin + stop)
            with contextlib.suppress(OSError):  # a client that was killed
                for at in range(begin, end, _CHUNK):
                    self.wfile.write(data[at : min(end, at + _CHUNK)])
                    time.sleep(_SECONDS_A_CHUNK)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@dataclass(frozen=True)
class Chain:
    """What is asked of a scene. An undisturbed run always makes the same bytes of ``answers``. Faults are tried at the
    stages ``struck`` (none named: at all). ``photos`` is the folder of the images. ``prepare`` makes the scene of a
    tiny project, and returns the site that it is fetched from, if it is."""

    scene: str
    targets: tuple[str, ...]
    answers: tuple[str, ...]
    photos: str
    prepare: Callable[[Project], Site | None]
    struck: tuple[str, ...] = ()


# folders whose whole content is one stage's, beside the files that the stage declares
_OWN_FOLDERS = ("sfm", "scene", "triangulated", "encodings", "retrieval")


class Stages:
    """The stages of a chain in their order, as Snakemake plans them in a project."""

    def __init__(self, project: Project, targets: tuple[str, ...]):
        text = project.snakemake(*targets, "--summary").stdout
        lines = text[text.index("output_file\t") :].splitlines()
        rows = [row for row in csv.DictReader(lines, delimiter="\t") if row["rule"]]
        reads = _reads(project.snakemake(*targets, "--rulegraph").stdout)
        made = {row["rule"] for row in rows}
        self.order = [name for name in TopologicalSorter(reads).static_order() if name in made]
        self._readers = {name: [reader for reader, read in reads.items() if name in read] for name in self.order}
        self.products: dict[str, list[str]] = {name: [] for name in self.order}
        self._logs: dict[str, set[str]] = {name: set() for name in self.order}
        for row in rows:
            self._logs[row["rule"]].add(row["log-file(s)"])
            products = self.products[row["rule"]]
            products += [product for product in _products(row["output_file"]) if product not in products]

    def following(self, stage: str) -> list[str]:
        """The stage and all that depends on it."""
        found, todo = set(), [stage]
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo.extend(self._readers[name])
        return [name for name in self.order if name in found]

    def logs(self, folder: Path, stage: str) -> list[Path]:
        """The stage's logs that are there."""
        return [folder / log for log in sorted(self._logs[stage]) if (folder / log).exists()]

    def seconds(self, folder: Path, stage: str) -> float:
        """How long the stage's longest job took, by its benchmark."""
        names = [log.replace("/logs/", "/benchmarks/").removesuffix(".log") + ".tsv" for log in self._logs[stage]]
        return max(float((folder / name).read_text().splitlines()[1].split("\t")[0]) for name in names)


def _reads(dot: str) -> dict[str, set[str]]:
    """rule -> the rules that it reads from, by Snakemake's graph of rules."""
    names = dict(re.findall(r'(\d+)\[label = "(\w+)"', dot))
    reads: dict[str, set[str]] = {name: set() for name in names.values()}
    for source, reader in re.findall(r"(\d+) -> (\d+)", dot):
        reads[names[reader]].add(names[source])
    return reads


def _products(output: str) -> list[str]:
    top, scene, *below = Path(output).parts if "/" in output else (output, "")
    if "benchmarks" in below:
        return []
    if top == "resources":  # the marker of a download, and what was downloaded
        return [output.removesuffix(".downloaded"), output]
    return [f"{top}/{scene}/{below[0]}"] if below and below[0] in _OWN_FOLDERS else [output]


_GRAPHS = {**CONFIG["graphs"], "points": {"kind": "points"}}


def _posed(project: Project) -> None:
    """Samples with known depths, and a graph of shared points."""
    project.edit("config/methods/quick.yaml", "    pull: true\n", "    pull: true\n    known_depth: true\n")
    project.write("config/config.yaml", {**CONFIG, "graphs": _GRAPHS})
    project.write("config/scenes/tiny.yaml", {**SCENE, "graph": "points"})
    images = project.folder / "data/images"
    real = images.resolve()
    images.unlink()
    shutil.copytree(real, images)


def _bare(project: Project) -> None:
    """A dozen photos without poses."""
    _posed(project)
    photos = project.folder / "bare/photos"
    photos.mkdir(parents=True)
    for number in range(0, 24, 2):
        shutil.copy(REPO / f"demo/images/mapping/{number:03d}.jpg", photos)
    bare = {
        "root": "bare",
        "source": {"reader": "photos", "images": "photos"},
        "split": {"every": 6},
        "sfm": {"median_depth": 10},
        "min_mapping_images": 6,
    }
    project.write("config/scenes/bare.yaml", {**SCENE, **bare, "graph": "points"})


def _poses_chain(scene: str, photos: str, prepare: Callable[[Project], None], struck: tuple[str, ...] = ()) -> Chain:
    poses = (f"results/{scene}/poses.txt",)
    return Chain(scene, poses, poses, photos, prepare, struck)


POSED = _poses_chain("tiny", "data/images", _posed)
PHOTOS = _poses_chain("bare", "bare/photos", _bare, ("reconstruct_scene", "build_scene", "build_graph"))
# a tiny project as it is, of which the tests have a finished one
PLAIN = _poses_chain("tiny", "data/images", lambda project: None)

_TABLE = {
    "title": "Tiny",
    "scenes": ["fetched"],
    "seeds": [1],
    "metrics": ["recall@2", "median_t", "map_mb"],
    "conditions": True,
    "rows": [
        {"id": "quick", "label": "quick", "method": "quick"},
        {"id": "match", "label": "matching", "baseline": "match"},
    ],
}
_BASELINE = {
    "description": "SIFT, small",
    "features": {"name": "sift", "max_keypoints": 2000, "descriptors": "uint8"},
    "neighbours": 6,
    "retrieval": "vlad",
    "localize": {"retrieved": 24},
}
_TABLES = "results/tables"


def _fetched(project: Project) -> Site:
    """A scene that a server has: photos in an archive, poses and lists as single files; the rest of the config."""
    site = Site(project.folder.parent / "site")
    data = project.folder / "data"
    _write_depth_images(data)
    _write_poses(data)
    with zipfile.ZipFile(site.folder / "photos.zip", "w") as archive:
        named = [name for listed in ("mapping", "queries_day", "queries_night")
                 for name in (data / f"{listed}.txt").read_text().split()]  # fmt: skip
        photos = [data / "images" / name for name in named]
        for path in sorted([*photos, *data.glob("depth/*/*")]):
            archive.write(path, path.relative_to(data))
    rows = ["path\tsha256\turl"]
    for path in sorted(data.glob("*.txt")):
        shutil.copy(path, site.folder)
        rows.append(f"{path.name}\t{sha256_file(path)}\t{site.url(path.name)}")
    shutil.rmtree(data)
    (project.folder / "config/scenes/downloads").mkdir()
    (project.folder / "config/scenes/downloads/fetched.tsv").write_text("\n".join(rows) + "\n")

    archive = {"url": site.url("photos.zip"), "sha256": sha256_file(site.folder / "photos.zip")}
    scene: dict[str, Any] = {**SCENE, "root": "fetched", "in_project": False, "graph": "points"}
    scene["source"] = {"reader": "poselist", "poses": "poses.txt", "images": "images"}
    scene["download"] = {"files": "downloads/fetched.tsv", "archives": [archive]}
    scene["depth_maps"] = {"pattern": "depth/{folder}/{stem}.png", "max_depth": 60, "max_relative_step": 0.5}
    project.write("config/scenes/fetched.yaml", scene)
    (project.folder / "config/scenes/tiny.yaml").unlink()

    method = yaml.safe_load(yaml.safe_dump(METHOD))
    method["global_encoding"] = {"name": "groups", "neighbour_share": 0.0}
    method["localize"]["hypotheses"] = 1
    method["training"]["depth_source"] = "points"
    method["training"]["loss"]["known_depth"] = True
    project.write("config/methods/quick.yaml", method)
    project.write("config/baselines/match.yaml", _BASELINE)
    project.write("config/tables/mini.yaml", _TABLE)
    shutil.copytree(REPO / "config/papers", project.folder / "config/papers")
    encodings = {"groups": {"kind": "clusters", "retrieval": "vlad", "clusters": 4}}
    project.write("config/config.yaml", {**CONFIG, "graphs": _GRAPHS, "encodings": encodings})
    return site


def _write_poses(data: Path) -> None:
    """As a list, which comes without 3D points, so that they are triangulated. A list says focal lengths alone: of half
    the queries distortion and principal point are lost, which costs them half a pixel."""
    views = views_of_model(read_model(data / "model"))
    poses = [f"{pose_line(view.name, view.cam_from_world)} {view.camera.params[0]}" for view in views]
    (data / "poses.txt").write_text("\n".join(poses) + "\n")


def _write_depth_images(data: Path) -> None:
    """SYNTHETIC: everything 10 m away, in millimetres. Only that they are read or told matters here."""
    for name in (data / "mapping.txt").read_text().split():
        with Image.open(data / "images" / name) as photo:
            width, height = photo.size
        path = (data / "depth" / name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((height // 4, width // 4), 10_000, np.uint16)).save(path)


_QUICK, _MATCH = "results/fetched/quick", "results/fetched/match"
_DEPTHS = "results/fetched/local/small/depth-maps.h5"
FETCHED = Chain(
    scene="fetched",
    targets=(
        f"{_TABLES}/mini.md",
        f"{_QUICK}/report.html",
        f"{_MATCH}/report.html",
        _DEPTHS,
    ),
    answers=(
        f"{_QUICK}/poses.txt",
        f"{_MATCH}/map.h5",
        f"{_MATCH}/poses.txt",
        f"{_TABLES}/mini.csv",
        f"{_TABLES}/mini.md",
        _DEPTHS,
    ),
    photos="resources/fetched/images",
    prepare=_fetched,
    struck=(
        *("download_dataset", "cluster_features", "find_point_depths", "read_depth_maps", "map_baseline"),
        *("localize_baseline", "evaluate_baseline", "write_report", "write_baseline_report", "write_table"),
    ),
)
