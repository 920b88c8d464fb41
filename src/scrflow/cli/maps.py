"""Commands that use a map: localize, add, serve, export, export-hloc, score-poses."""

from pathlib import Path
from typing import Annotated

import typer

from scrflow.cli import ALL, ConfigDir, Device, Threads
from scrflow.core.errors import ScrflowError


def localize(
    map_: Annotated[Path, typer.Argument(metavar="MAP", help="A map.safetensors; nothing else of a scene is needed.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Photos, or folders of photos.")],
    out: Annotated[Path, typer.Option(help="File of poses; the details go beside it, with the suffix .jsonl.")],
    camera: Annotated[
        str | None,
        typer.Option(
            help="'MODEL WIDTH HEIGHT PARAMS...' of all photos, as COLMAP has it; or a file of lines NAME MODEL WIDTH "
            "HEIGHT PARAMS... of each photo (hloc's list). Without: from EXIF."
        ),
    ] = None,
    near: Annotated[
        str | None,
        typer.Option(
            help="Where the photos were taken, roughly: 'X Y Z RADIUS' of all photos, with a viewing direction "
            "'X Y Z RADIUS DX DY DZ DEGREES'; or a file of lines NAME X Y Z RADIUS... Other poses do not count."
        ),
    ] = None,
    more: Annotated[
        list[Path] | None,
        typer.Option("--map", metavar="MAP", help="A further map of the same frame; may be repeated."),
    ] = None,
    tried: Annotated[int, typer.Option(min=1, help="With --map: maps to localize a photo with.")] = 2,
    min_confidence: Annotated[
        float | None,
        typer.Option(
            help="Leave out poses that are less likely within the scene's finest threshold. Default: 0.02; photos of "
            "other places are below it. 0 keeps all."
        ),
    ] = None,
    rig: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Localize photos together whose relative poses are known: lines NAME qw qx qy qz tx ty tz "
            "(cam_from_rig) of photos, or of the folders of a rig's cameras.",
        ),
    ] = None,
    group: Annotated[
        int | None,
        typer.Option(min=2, help="With --rig of photos: this many that follow each other; default: all together."),
    ] = None,
    device: Device = None,
    threads: Threads = ALL,
) -> None:
    """Localize photos with a map.

    Writes a line name qw qx qy qz tx ty tz (cam_from_world) for each photo with a pose. OUT with the suffix .jsonl has
    a line for each photo: pose, inliers, confidence, ms and, without a pose, the reason. A stopped run goes on where it
    was. Exit status 1 if a photo could not be used; the others' poses are written.

    Example: scrflow localize map.safetensors photos/ --out poses.txt

    Example: scrflow localize map.safetensors a.png b.png --camera "PINHOLE 640 480 525 525 320 240" --out poses.txt

    Example: scrflow localize map.safetensors photos/ --rig odometry.txt --group 8 --out poses.txt

    Example: scrflow localize map.safetensors a.jpg --near "12 -3 1.5 10" --out poses.txt

    Example: scrflow localize west.safetensors photos/ --map east.safetensors --map north.safetensors --out poses.txt
    """
    from scrflow.localize.batch import localize_photos, summary_of

    of = (camera, out, min_confidence, device, threads, tried, rig, group, near)
    outcome = localize_photos((map_, *(more or ())), tuple(images), *of)
    print(summary_of(outcome, out))
    if outcome.broken:
        raise typer.Exit(1)


def add(
    map_: Annotated[Path, typer.Argument(metavar="MAP", help="A map.safetensors; it stays as it is.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="New photos, or folders of photos.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The new map, a file that does not exist.")],
    camera: Annotated[str | None, typer.Option(help="As for scrflow localize.")] = None,
    poses: Annotated[
        Path | None,
        typer.Option(help="Lines name qw qx qy qz tx ty tz (cam_from_world) in the map's frame. Without: localized."),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(min=16, help="Landmarks in all. Default: new photos get as many each as the map's photos have."),
    ] = None,
    size: Annotated[str | None, typer.Option(help="Bytes of all landmarks (300 kB), in place of --count.")] = None,
    min_confidence: Annotated[
        float, typer.Option(min=0, max=1, help="Photos of less confident poses are left out.")
    ] = 0.1,
    device: Device = None,
    threads: Threads = ALL,
) -> None:
    """Add photos to a map: landmarks, and a head's index of mapping images. Nothing is trained.

    The new map has the frame of the old one. Photos that the map does not localize confidently are left out.

    Example: scrflow add map.safetensors photos/ --camera "PINHOLE 640 480 525 525 320 240" --out larger.safetensors
    """
    from scrflow.localize.add import add_photos

    budgets = [(key, value) for key, value in (("count", count), ("size", size)) if value is not None]
    if len(budgets) > 1:
        raise ScrflowError("--count and --size: give one of them")
    budget = budgets[0] if budgets else None
    done = add_photos(map_, tuple(images), out, camera, poses, budget, min_confidence, device, threads)
    parts = [f"{len(done.added)} of {len(done.added) + len(done.left_out)} photos added: {out}"]
    parts += [f"{done.new} new landmarks, {done.landmarks} in all"] if done.landmarks else []
    print("; ".join([*parts, f"{out.stat().st_size / 1e6:.2f} MB"]))


def serve(
    maps: Annotated[list[Path], typer.Argument(metavar="MAP...", help="Maps (map.safetensors).")],
    host: Annotated[str, typer.Option(help="Address to listen on; beyond this machine it needs --token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    token: Annotated[
        str | None, typer.Option(envvar="SCRFLOW_TOKEN", help="Clients send it: Authorization: Bearer TOKEN.")
    ] = None,
    no_token: Annotated[bool, typer.Option("--no-token", help="With --host: anyone may use the service.")] = False,
    workers: Annotated[
        int, typer.Option(min=1, help="Photos localized at a time, a process each. Default: processors, up to 4.")
    ] = min(4, ALL),
    queue: Annotated[int, typer.Option(min=0, help="Photos that may wait; further ones get status 503.")] = 16,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for a photo, waiting included.")] = 30,
    device: Device = None,
) -> None:
    """Serve maps over HTTP, with a page that localizes photos.

    Example: scrflow serve results/demo/landmarks/map.safetensors

    Example: curl -F photo=@photo.jpg http://127.0.0.1:8000/localize
    """
    from scrflow.serve.app import serve as run

    run(tuple(maps), host, port, token, no_token, workers, queue, timeout, device)


def export(
    map_: Annotated[Path, typer.Argument(metavar="MAP", help="A map.safetensors.")],
    ply: Annotated[Path | None, typer.Option(help="The coloured points, as binary PLY.")] = None,
    colmap: Annotated[Path | None, typer.Option(help="A new folder of COLMAP's binary model.")] = None,
    nerfstudio: Annotated[Path | None, typer.Option(help="A new folder of nerfstudio's transforms.json.")] = None,
    scene: Annotated[Path | None, typer.Option(help="Default: ../scene from the map's folder.")] = None,
    max_error: Annotated[float, typer.Option(min=0.01, help="Largest reprojection error, px.")] = 2.0,
    min_views: Annotated[int, typer.Option(min=1, help="Least number of photos that agree on a point.")] = 2,
    voxel: Annotated[
        float | None, typer.Option(min=1e-9, help="Edge of a point's cell; default: of max-error.")
    ] = None,
    device: Device = None,
    threads: Threads = ALL,
) -> None:
    """Write the point cloud of a map, as PLY, COLMAP model or nerfstudio dataset.

    The points are the scene coordinates of the mapping photos' keypoints. A map holds no photos and no poses, so the
    scene that it was made of must be at hand, with its photos.

    Example: scrflow export results/redkitchen/rscore-cpu/map.safetensors --ply redkitchen.ply --colmap redkitchen-model
    """
    from scrflow.localize.pointcloud import ExportOptions, export_map

    options = ExportOptions(max_error_px=max_error, min_views=min_views, voxel=voxel)
    points = export_map(map_, scene, ply, colmap, options, device, threads, nerfstudio)
    print(f"{points} points: {', '.join(str(path) for path in (ply, colmap, nerfstudio) if path is not None)}")


def export_hloc(
    scene: Annotated[str, typer.Argument(help="A scene of config/scenes, with its covisibility graph made.")],
    out: Annotated[Path, typer.Option(help="A new folder.")],
    encoder: Annotated[str, typer.Option(help="A local encoder of config/encoders.")] = "xfeat",
    retrieval: Annotated[str | None, typer.Option(help="A retrieval feature of config.yaml, made already.")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs an image.")] = 20,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    config: ConfigDir = Path("config"),
) -> None:
    """Write a scene in hloc's files: features, descriptors, pairs, lists and the COLMAP model.

    Example: scrflow export-hloc redkitchen --encoder xfeat --retrieval vlad --out redkitchen-hloc
    """
    from scrflow.baseline.hloc_export import export_scene
    from scrflow.pipeline.project import Project

    project = Project(config)
    project.scene(scene)
    export_scene(project.hloc_export_stage(encoder, retrieval, pairs), Path("results") / scene, out, threads)
    print(f"written: {out}")


def score_poses(
    scene: Annotated[str, typer.Argument(help="A scene of config/scenes that is built, with reference poses.")],
    poses: Annotated[Path, typer.Argument(help="Lines name qw qx qy qz tx ty tz, as hloc writes its results.")],
    config: ConfigDir = Path("config"),
) -> None:
    """Print the recall of poses that another tool found for the scene's queries, at the scene's thresholds.

    Example: scrflow score-poses redkitchen redkitchen-hloc/results.txt
    """
    from scrflow.evaluate.submission import recall_of_results
    from scrflow.pipeline.project import Project

    settings = Project(config).scene(scene)
    recall, (t, r), count = recall_of_results(poses, Path("results") / scene / "scene", settings.thresholds)
    for (distance, angle), share in zip(settings.thresholds, recall, strict=True):
        print(f"{distance:g} {settings.unit} {angle:g}°  {100 * share:.1f} %")
    print(f"median {t:.4g} {settings.unit}, {r:.3g}° of {count} queries")
