"""``scrflow view``: the points, cameras and queries of a result, or of a training while it runs, in viser's 3D page."""

import contextlib
import io
import math
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import viser
from matplotlib.colors import to_rgb
from pydantic import ValidationError
from scipy.spatial.transform import Rotation

from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import camera_centre, pinhole_matrix, reprojection_error
from scrflow.evaluate.figures import ground_plane
from scrflow.report.page.relocalize import open_map
from scrflow.report.page.run import Run, load_run
from scrflow.training.buffer import pieces
from scrflow.training.head import Head
from scrflow.training.job import TrainJob, output_unit
from scrflow.training.samples import ColumnLayout, Columns, Samples

_SHOWN_POINTS = 500_000
_SHOWN_QUERIES = 1_000  # the worst
_LIVE_ROWS = 1 << 15  # samples of a training whose scene coordinates are shown
_RUN = 256  # neighbouring rows read at once
_LOOK_S = 2.0  # between two looks for a new checkpoint
_GREY, _NEAR, _FAR = (110, 120, 130), np.array([27, 94, 155]), np.array([242, 176, 74])
_FAR_PX = 10.0  # reprojection error in the last colour: the papers' inlier threshold
_PHOTO_PX = 640
_TEXT = '<div style="padding: 0 0.8em">{}</div>'
_SIGNS = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])  # of a photo's corners


def view(folder: Path, port: int, threads: int = 1) -> None:
    """Serve the page of results/SCENE/METHOD on localhost until Ctrl-C. Where the method is still being trained, show
    each checkpoint, and its result when it is there. ScrflowError where there is neither."""
    job = folder / "train.json"
    if not (folder / "metrics.json").is_file() and not job.is_file():
        raise ScrflowError(f"{folder}: neither a result nor a training; give results/SCENE/METHOD, or run it first")
    run = load_run(folder) if (folder / "metrics.json").is_file() else None
    with contextlib.redirect_stdout(io.StringIO()):  # a box with the addresses
        server = viser.ViserServer("127.0.0.1", port, label=str(folder), verbose=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # not pycolmap's, which prints a stack
    try:
        server.gui.configure_theme(control_layout="collapsible", show_share_button=False)
        print(f"view: http://127.0.0.1:{server.get_port()} (Ctrl-C ends it)", flush=True)
        if run is None:
            watch_training(server, folder)
            run = load_run(folder)
        show_run(server, run, threads)
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print()
    finally:
        server.stop()


def show_run(server: viser.ViserServer, run: Run, threads: int = 1) -> None:
    """The map's points, the mapping cameras, and each query with its error and, when it is chosen, its photo."""
    server.scene.reset()
    server.gui.reset()
    _add_text(server, f"<b>{run.scene.folder.parent.name}, {run.folder.name}</b>")
    views = run.scene.mapping
    K, poses = (np.stack(x) for x in zip(*((pinhole_matrix(v.camera), v.cam_from_world) for v in views), strict=True))
    size = _add_cameras(server, K, poses)
    handle = _add_text(server, "the map's points are computed ...")
    points = open_map(run, threads)[1]
    handle.content = _TEXT.format(points.note)
    shown = np.random.default_rng(0).permutation(len(points.xyz))[:_SHOWN_POINTS]
    _add_points(server, points.xyz[shown], points.rgb[shown], size)
    _add_queries(server, run, size)


def _add_text(server: viser.ViserServer, html: str) -> viser.GuiHtmlHandle:
    return server.gui.add_html(_TEXT.format(html))


def _add_cameras(server: viser.ViserServer, K: np.ndarray, cam_from_world: np.ndarray) -> float:
    """Mapping photos as pyramids; returns their length, a share of the distance that all span."""
    plane, centres = ground_plane(cam_from_world), camera_centre(cam_from_world)
    up, middle = np.cross(plane.right, plane.forward), centres.mean(0)
    extent = float(np.linalg.norm(np.ptp(centres, axis=0))) or 1.0
    server.scene.set_up_direction(up)
    server.initial_camera.look_at = middle
    server.initial_camera.position = middle + 0.8 * extent * (up - plane.forward)
    size = 0.02 * extent
    half = K[:, :2, 2] / K[:, [0, 1], [0, 1]]  # of the photo's width and height, one focal length away
    corners = np.stack([np.column_stack([half * sign, np.ones(len(half))]) for sign in _SIGNS], 1)  # [V, 4, 3]
    corners = centres[:, None] + size * corners @ cam_from_world[:, :, :3]
    apex = np.broadcast_to(centres[:, None], corners.shape)
    lines = np.concatenate([np.stack([apex, corners], 2), np.stack([corners, np.roll(corners, 1, 1)], 2)], 1)
    cameras = server.scene.add_line_segments(
        "/mapping", lines.reshape(-1, 2, 3).astype(np.float32), _GREY, thickness=1.0, thickness_units="screen"
    )
    box = server.gui.add_checkbox(f"{len(centres)} mapping photos", True)
    box.on_update(lambda _: setattr(cameras, "visible", box.value))
    return size


def _add_points(server: viser.ViserServer, xyz: np.ndarray, rgb: np.ndarray, size: float) -> None:
    server.scene.add_point_cloud(
        "/points", xyz.astype(np.float32), rgb, point_size=0.07 * size, precision="float32", point_shading="flat"
    )


def _add_queries(server: viser.ViserServer, run: Run, size: float) -> None:
    """Pyramids in their band's colour where the queries were put, lines to where they were taken, and a list."""
    worst = run.queries.sort_values("badness", ascending=False, kind="stable")[:_SHOWN_QUERIES]
    cameras = {q.name: q.camera for q in run.scene.queries}
    poses: dict[str, np.ndarray] = {}
    for number, band in enumerate(run.bands):
        colour = np.round(255 * np.array(to_rgb(band.colour))).astype(int)
        names = [name for name in worst.index if name in set(band.queries["name"])]
        lines = []
        for name in names:
            true, found = run.scene.query_poses.get(name), run.estimates.get(name)
            pose = true if found is None else found
            if pose is None:
                continue
            poses[name] = pose
            camera = cameras[name]
            frustum = server.scene.add_camera_frustum(
                f"/queries/{number}/{name}",
                fov=2 * math.atan(camera.height / 2 / camera.mean_focal_length()),
                aspect=camera.width / camera.height,
                scale=size,
                thickness=2.0,
                thickness_units="screen",
                color=colour,
                wxyz=Rotation.from_matrix(pose[:, :3].T).as_quat(scalar_first=True),
                position=camera_centre(pose),
            )
            frustum.on_click(lambda _, name=name: setattr(chosen, "value", name))
            if true is not None and found is not None:
                lines.append((camera_centre(true), camera_centre(found)))
        if lines:
            segments = np.array(lines, np.float32)
            server.scene.add_line_segments(
                f"/queries/{number}/errors", segments, colour, thickness=2.0, thickness_units="screen"
            )
        _add_text(server, f'<span style="color:{band.colour}">&#9632;</span> {band.label}: {len(band.queries)}')

    chosen = server.gui.add_dropdown("query, worst first", ["none", *worst.index])
    details = _add_text(server, "")
    picture = server.gui.add_image(np.full((1, 1, 3), 255, np.uint8), format="jpeg", visible=False)

    @chosen.on_update
    def _(event: viser.GuiEvent) -> None:
        if chosen.value == "none":
            return
        details.content = _TEXT.format(worst.loc[chosen.value, "hover"])
        photo = run.scene.photo(chosen.value)
        photo.thumbnail((_PHOTO_PX, _PHOTO_PX))
        picture.image, picture.visible = np.asarray(photo), True
        if event.client is not None and chosen.value in poses:
            pose = poses[chosen.value]
            back = camera_centre(pose) - 4 * size * pose[2, :3]
            with event.client.atomic():
                event.client.camera.wxyz = Rotation.from_matrix(pose[:, :3].T).as_quat(scalar_first=True)
                event.client.camera.position = back


# ------------------------------------------------------------------------------------------------------------ training


def watch_training(server: viser.ViserServer, folder: Path) -> None:
    """Show the scene coordinates of each checkpoint of the training in ``folder``, until its result is there."""
    path = folder / "train.json"
    try:
        job = TrainJob.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise ScrflowError(f"{path}: not a training job ({str(error).splitlines()[0]}); train again") from None
    samples = Samples.open(job.config, list(job.shards), job.graph, job.encoding, None)
    plain = samples.buffer.plain.numpy()
    size = _add_cameras(server, samples.buffer.K.numpy()[plain], samples.buffer.cam_from_world.numpy()[plain])
    state_text = _add_text(server, "no checkpoint yet")
    columns, seen, state = _even_rows(samples), 0.0, None
    while not (folder / "metrics.json").is_file():
        with contextlib.suppress(FileNotFoundError):  # the end of the training removes it
            if (changed := job.checkpoint.stat().st_mtime) != seen:
                state, seen = _read_checkpoint(job.checkpoint), changed
        if state is not None:
            xyz, error_px = _scene_coordinates(job, samples, columns, state)
            share = np.clip(error_px / _FAR_PX, 0, 1)[:, None]
            _add_points(server, xyz, np.round(_NEAR + share * (_FAR - _NEAR)).astype(np.uint8), size)
            state_text.content = _TEXT.format(
                f"step {state['step']} of {job.config.training.steps}: median reprojection error "
                f"{np.median(error_px):.1f} px; blue are points with 0 px, amber with {_FAR_PX:g} px and more"
            )
            state = None
        time.sleep(_LOOK_S)


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """The state that scrflow.training.trainer saved: after a line with its digest, which a reader can go without."""
    return torch.load(io.BytesIO(path.read_bytes().partition(b"\n")[2]), map_location="cpu", weights_only=True)


def _even_rows(samples: Samples) -> Columns:
    """Some _LIVE_ROWS samples from all over the buffer."""
    every = max(1, samples.buffer.rows // _LIVE_ROWS)
    parts = list(pieces(samples.buffer, _RUN, every))
    layout = ColumnLayout(samples.buffer.dim, torch.float16, depth=False, matches=0)
    columns, start = Columns.empty(sum(len(p["view"]) for p in parts), layout, torch.device("cpu"), None), 0
    for part in parts:
        columns.put(start, part)
        start += len(part["view"])
    return columns


@torch.inference_mode()
def _scene_coordinates(
    job: TrainJob, samples: Samples, columns: Columns, state: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Scene coordinates [n, 3] of the samples by the head of a checkpoint, and their reprojection errors [n] in px."""
    training = job.config.training
    known = job.depth is not None and training.needs_depth and training.loss.known_depth
    centres = state["head"]["decoder.centres"]
    head = Head(samples.dim_in, job.config.head, centres, output_unit(job.depth) if known else 1.0)
    head.load_state_dict(state["head"])
    x, targets = samples.batch(columns, torch.arange(len(columns.view)), None)
    xyz = head.eval()(x).xyz_world.double().numpy()
    K, pose = targets.K.double().numpy(), targets.cam_from_world.double().numpy()
    return xyz, reprojection_error(targets.pixel.double().numpy(), xyz, K, pose)
