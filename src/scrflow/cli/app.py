"""The command line: look at artifacts, results and config. The stages themselves are run by Snakemake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from scrflow.core.errors import ScrflowError, exit_on_error

app = typer.Typer(
    name="scrflow",
    help="Visual localization by scene coordinate regression: look at artifacts, results and config.\n\n"
    "The pipeline is run by Snakemake: snakemake --cores 8 results/demo/poses.txt",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ConfigDir = Annotated[Path, typer.Option("--config", help="Folder of the config.")]


@app.command()
def inspect(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Artifacts under results/.")],
) -> None:
    """Print what is in any artifact.

    Example: scrflow inspect results/demo/covisibility.npz results/demo/rscore-cpu/map.safetensors
    """
    from rich.console import Console

    from scrflow.cli.inspection import inspect_file

    console = Console()
    for path in files:
        console.print(inspect_file(path))


@app.command()
def verify(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Artifacts, or folders of them.")],
) -> None:
    """Check that artifacts are what was written, by the digests in them: after a copy, or when a disk is doubted.

    Names every file that is not, and ends with exit status 1 then. Logs, pictures and tables have no digests.

    Example: scrflow verify results

    Example: scrflow verify results/demo/rscore-cpu/map.safetensors
    """
    from scrflow.report.verify import print_verification

    if not print_verification(paths):
        raise typer.Exit(1)


@app.command()
def summary(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="results/SCENE/METHOD, or results/SCENE.")],
    config: ConfigDir = Path("config"),
) -> None:
    """Print the table of one or more results, and name their pictures. A scene's folder stands for its default method.

    Example: scrflow summary results/demo results/demo/ace-cpu
    """
    from scrflow.report.summary import print_summary

    print_summary([_method_folder(folder, config) for folder in folders])


@app.command()
def costs(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="results/SCENE/METHOD, or results/SCENE.")],
    config: ConfigDir = Path("config"),
) -> None:
    """Print time and memory of every job that a map needed, the mapping time, and the cost of localization.

    Example: scrflow costs results/demo/rscore-cpu
    """
    from scrflow.report.costs import print_costs

    print_costs([_method_folder(folder, config) for folder in folders])


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="results/SCENE/METHOD, or results/SCENE.")],
    out: Annotated[Path | None, typer.Option(help="The page; default: FOLDER/report.html.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: all processors.")] = None,
    config: ConfigDir = Path("config"),
) -> None:
    """Write one HTML page of a result, with everything in it: how good the map is, where it fails, how it was made.

    The map localizes a few queries once more, so the scene's photos must be at hand.

    Example: scrflow report results/demo/rscore-cpu
    """
    import os

    from scrflow.report.page.page import write_report

    folder = _method_folder(folder, config)
    out = out or folder / "report.html"
    write_report(folder, out, threads or os.cpu_count() or 1)
    print(f"written: {out}")


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(metavar="RESULTS_A", help="results/SCENE/METHOD, results/SCENE, or results.")],
    b: Annotated[Path, typer.Argument(metavar="RESULTS_B", help="Of the same kind.")],
    queries: Annotated[int, typer.Option(min=0, help="Name at most so many queries a threshold.")] = 5,
) -> None:
    """Say what differs between two results, and why: the first stage that differs, config, code, data; then packages
    and device; then recall, errors, map size, times, and the queries that changed sides of a threshold.

    Exit status 0 when recipe, poses and map size are the same (times, packages and device may differ), 1 when they
    differ, 2 on an error.

    Example: scrflow diff results/demo/rscore-cpu results/demo/rscore-cpu-sift

    Example: scrflow diff ../before/results results --queries 20
    """
    from scrflow.report.diff import print_difference

    with exit_on_error(2):
        differ = print_difference(a, b, queries)
    raise typer.Exit(int(differ))


@app.command()
def table(
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", help="results/tables/NAME.csv.")],
    check: Annotated[Path | None, typer.Option(metavar="STORED.csv", help="Compare with this table instead.")] = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(metavar="METRIC=VALUE", help="With --check: least difference that counts; times need one."),
    ] = None,
) -> None:
    """Print a table, or check that it says what a stored one says.

    Two means agree when they are no further apart than twice the standard error of their difference over the seeds;
    recalls also when one query is between them. Exit status with --check: 0 when all cells agree, 1 when any is outside
    or missing, 2 on an error.

    Example: scrflow table results/tables/claims@demo.csv

    Example: scrflow table results/tables/claims@demo.csv --check docs/tables/claims@demo.csv --tolerance median_t=0.01
    """
    from scrflow.report.tables.check import check_table, parse_tolerances, print_check
    from scrflow.report.tables.read import print_table, read_table

    with exit_on_error(2):
        new = read_table(file)
        if check is None:
            if tolerance:
                raise ScrflowError("--tolerance: of --check STORED.csv alone")
            print_table(new)
            return
        agrees = print_check(check_table(new, read_table(check), parse_tolerances(tolerance or [])), new.path, check)
    raise typer.Exit(0 if agrees else 1)


def _method_folder(folder: Path, config: Path) -> Path:
    from scrflow.pipeline.project import Project

    if not (folder / "metrics.json").exists() and folder.is_dir():
        project = Project(config)
        if folder.resolve().name in project.scenes:
            return folder / project.scene(folder.resolve().name).method
    return folder


@app.command()
def validate(config: ConfigDir = Path("config")) -> None:
    """Check the whole config, and say which scenes' photos are at hand and what may not be used commercially.

    Example: SCRFLOW_DATA=/data scrflow validate
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from scrflow.pipeline.licence import encoder_restrictions, feature_restrictions
    from scrflow.pipeline.project import Project

    project = Project(config)
    table = Table("scene", "reader", "default method", "photos", "commercial use")
    for name, scene in project.scenes.items():
        told = (name, scene.source.reader, scene.method, _photos(project, name), scene.commercial_use)
        table.add_row(*map(escape, told))
    console = Console()
    console.print(table)
    console.print(f"encoders: {', '.join(project.encoders)}", f"methods: {', '.join(project.methods)}", sep="\n")
    restricted = dict.fromkeys(
        [found for name in project.encoders for found in encoder_restrictions(project, name)]
        + [found for name in project.config.retrieval for found in feature_restrictions(project, name)]
    )
    for found in restricted:
        console.print(f"{found}", markup=False, highlight=False, soft_wrap=True)


def _photos(project: Any, name: str) -> str:
    if project.parts(name):
        return f"those of {', '.join(project.parts(name))}"
    root = project.scene_root(name)
    if root.is_dir():
        return f"in {root}"
    if project.scene(name).download is not None:
        return f"will be downloaded to {root}"
    return f"missing: put them in {root}"


@app.command()
def localize(
    map_: Annotated[Path, typer.Argument(metavar="MAP", help="A map.safetensors; nothing else of a scene is needed.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Photos, or folders of photos.")],
    out: Annotated[Path, typer.Option(help="Poses; the details go beside it, with the suffix .jsonl.")],
    camera: Annotated[
        str | None,
        typer.Option(
            help="'MODEL WIDTH HEIGHT PARAMS...' of all photos, as COLMAP has it; or a file of lines NAME MODEL WIDTH "
            "HEIGHT PARAMS... of each photo (hloc's list). Without: from EXIF."
        ),
    ] = None,
    more: Annotated[
        list[Path] | None,
        typer.Option("--map", metavar="MAP", help="A further map of the same frame; may be repeated."),
    ] = None,
    tried: Annotated[
        int, typer.Option(min=1, help="With --map: localize with so many maps, those that look most like the photo.")
    ] = 2,
    min_confidence: Annotated[
        float | None,
        typer.Option(
            help="Leave out poses that are less likely within the scene's finest threshold; default: 0.02, under which "
            "photos of other places are. 0 keeps all."
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: cuda where there is one.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: all processors.")] = None,
) -> None:
    """Localize photos with a map: lines name qw qx qy qz tx ty tz (cam_from_world), one a photo with a pose.

    OUT with the suffix .jsonl has pose, inliers, confidence, ms and, without a pose, the reason, a line a photo. A run
    that was stopped goes on where it was. Exit status 1 if a photo could not be used; the others' poses are written.

    Example: scrflow localize map.safetensors photos/ --out poses.txt

    Example: scrflow localize map.safetensors a.png b.png --camera "PINHOLE 640 480 525 525 320 240" --out poses.txt

    Example: scrflow localize west.safetensors photos/ --map east.safetensors --map north.safetensors --out poses.txt
    """
    import os

    from scrflow.localize.batch import LocalizeRequest, localize_photos, summary_of

    threads = threads or os.cpu_count() or 1
    further = tuple(more or ())
    request = LocalizeRequest(map_, tuple(images), camera, out, min_confidence, device, threads, further, tried)
    outcome = localize_photos(request)
    print(summary_of(outcome, out))
    if outcome.broken:
        raise typer.Exit(1)


@app.command()
def export(
    map_: Annotated[Path, typer.Argument(metavar="MAP", help="A map.safetensors.")],
    ply: Annotated[Path | None, typer.Option(help="The coloured points, as binary PLY.")] = None,
    colmap: Annotated[
        Path | None, typer.Option(help="A new folder: COLMAP's binary model, points with tracks.")
    ] = None,
    scene: Annotated[
        Path | None, typer.Option(help="results/SCENE/scene of the map; default: ../scene from the map's folder.")
    ] = None,
    max_error: Annotated[
        float, typer.Option(min=0.01, help="Largest reprojection error, px of the encoded photo.")
    ] = 2.0,
    min_views: Annotated[int, typer.Option(min=1, help="Photos that must agree on a point.")] = 2,
    voxel: Annotated[
        float | None, typer.Option(min=1e-9, help="What counts as one point; default: max-error at the median depth.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: cuda where there is one.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: all processors.")] = None,
) -> None:
    """Write the point cloud that a map implies: its mapping photos' keypoints, put in the world by the head.

    A map holds no photos and no poses, so the scene that it was made of must be at hand, with its photos.

    Example: scrflow export results/redkitchen/rscore-cpu/map.safetensors --ply redkitchen.ply --colmap redkitchen-model
    """
    import os

    from scrflow.localize.pointcloud import ExportOptions, export_map

    options = ExportOptions(max_error_px=max_error, min_views=min_views, voxel=voxel)
    threads = threads or os.cpu_count() or 1
    points = export_map(map_, scene, ply, colmap, options, device, threads)
    print(f"{points} points: {', '.join(str(path) for path in (ply, colmap) if path is not None)}")


@app.command("export-hloc")
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


@app.command("score-poses")
def score_poses(
    scene: Annotated[str, typer.Argument(help="A scene of config/scenes that is built, with reference poses.")],
    poses: Annotated[Path, typer.Argument(help="Lines name qw qx qy qz tx ty tz, as hloc writes its results.")],
    config: ConfigDir = Path("config"),
) -> None:
    """Print the recall of poses that another tool found for the scene's queries, at the scene's thresholds.

    Example: scrflow score-poses redkitchen redkitchen-hloc/results.txt
    """
    from scrflow.evaluate.hloc_poses import recall_of_results
    from scrflow.pipeline.project import Project

    settings = Project(config).scene(scene)
    recall, (t, r), count = recall_of_results(poses, Path("results") / scene / "scene", settings.thresholds)
    for (distance, angle), share in zip(settings.thresholds, recall, strict=True):
        print(f"{distance:g} {settings.unit} {angle:g}°  {100 * share:.1f} %")
    print(f"median {t:.4g} {settings.unit}, {r:.3g}° of {count} queries")


@app.command()
def plan(
    scene: Annotated[str | None, typer.Argument(help="A scene of config/scenes; without one: give --images.")] = None,
    method: Annotated[str | None, typer.Option(help="Default: the scene's; rscore-cpu without a scene.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Mapping images.")] = None,
    queries: Annotated[int | None, typer.Option(min=1, help="Default: the scene's; 100 without a scene.")] = None,
    resolution: Annotated[
        str | None, typer.Option(metavar="WxH", help="Of the photos on disk. Default: 640x480.")
    ] = None,
    neighbours: Annotated[
        float | None, typer.Option(min=1, help="Covisible images an image; default: the graph's, or a city's 16.5.")
    ] = None,
    bare: Annotated[
        bool, typer.Option("--bare", help="Without a scene: photos without poses, SfM comes first.")
    ] = False,
    profile: Annotated[Path | None, typer.Option(help="Snakemake's profile to check against.")] = None,
    cores: Annotated[int | None, typer.Option(min=1, help="Of this machine; default: all.")] = None,
    gpu: Annotated[
        str | None, typer.Option(help="Train on quadro-rtx-6000 or rtx-4090, by the papers' times; default: the CPU.")
    ] = None,
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="results/SCENE/METHOD of your own: rates are brought to your machine."),
    ] = None,
    rates: Annotated[bool, typer.Option("--rates", help="Print every rate with its range and source.")] = False,
    config: ConfigDir = Path("config"),
) -> None:
    """Print what a scene will cost, stage by stage, from measured rates, and what does not fit, before anything starts.

    "extrapolated x 20" is of a rate that was measured up to a twentieth of that. Exit status 1 when a stage does not
    fit the rules' or the profile's memory and time, or this machine; the line says how to mend it.

    Example: scrflow plan redkitchen

    Example: scrflow plan --images 100000 --method rscore --resolution 1600x1200 --profile profiles/slurm --gpu rtx-4090

    Example: scrflow plan aachen --images 4328 --queries 922 --calibrate results/demo/rscore-cpu --rates
    """
    from scrflow.cli.plan import PlanRequest
    from scrflow.cli.plan import plan as command

    with exit_on_error(2):
        fits = command(
            PlanRequest(
                scene=scene,
                method=method,
                images=images,
                queries=queries,
                resolution=resolution,
                neighbours=neighbours,
                bare=bare,
                profile=profile,
                cores=cores,
                gpu=gpu,
                calibrate=tuple(calibrate or ()),
                rates=rates,
                config=config,
            )
        )
    raise typer.Exit(0 if fits else 1)


@app.command("new-scene")
def new_scene(
    name: Annotated[str, typer.Argument(help="Name of the scene: results/NAME.")],
    path: Annotated[Path, typer.Argument(help="A folder of photos, a model with its images, a video, a dataset.")],
    queries: Annotated[Path | None, typer.Option(help="List of query photos, or the folder they are in.")] = None,
    every: Annotated[int | None, typer.Option(min=2, help="Instead of a list: every n-th image is a query.")] = None,
    outdoor: Annotated[bool, typer.Option("--outdoor", help="Depths and thresholds for outdoors, not rooms.")] = False,
    unit: Annotated[str | None, typer.Option(help="Unit of length of given poses, e.g. m.")] = None,
    single_camera: Annotated[
        bool | None, typer.Option(help="Bare photos share intrinsics; found out from sizes and EXIF if not said.")
    ] = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="nerfstudio: leave out frames without an image.")
    ] = False,
    guess_cameras: Annotated[
        bool, typer.Option("--guess-cameras", help="A query without intrinsics or EXIF gets a guess.")
    ] = False,
    form: Annotated[str | None, typer.Option(help="Take PATH for this form where several fit, e.g. photos.")] = None,
    method: Annotated[str | None, typer.Option(help="Default: rscore with a GPU, rscore-cpu without.")] = None,
    licence: Annotated[str, typer.Option(help="Of the photos.")] = "of the owner of the photos",
    description: Annotated[str | None, typer.Option(help="A line on the place.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="A video's frames go to this folder (default: DATA_ROOT/NAME/images).")
    ] = None,
    max_frames: Annotated[int, typer.Option(min=3, help="At most so many frames of a video.")] = 300,
    out: Annotated[Path | None, typer.Option(help="Folder of NAME.yaml (default: CONFIG/scenes).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a config that is there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Print what would be written.")] = False,
    config: ConfigDir = Path("config"),
) -> None:
    """Write the config of a scene of your own: look at PATH, say what is there and what is missing.

    Knows COLMAP models, nerfstudio, NVM, kapture, DSAC*, 7-Scenes, 12-Scenes, Cambridge and Map-free layouts, pose
    lists, bare photos (poses by SfM) and videos (frames are picked first).

    Example: scrflow new-scene yard ~/photos/yard --outdoor
    """
    from scrflow.newscene import NewScene
    from scrflow.newscene import new_scene as command

    options = NewScene(
        name=name,
        path=path,
        form=form,
        queries=queries,
        every=every,
        outdoor=outdoor,
        unit=unit,
        single_camera=single_camera,
        skip_missing=skip_missing,
        guess_cameras=guess_cameras,
        method=method,
        licence=licence,
        description=description,
    )
    command(options, config, out, images, max_frames, force, dry_run)


@app.command("pick-frames")
def pick_frames(
    video: Annotated[Path, typer.Argument(help="Any file that FFmpeg reads.")],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    max_frames: Annotated[int, typer.Option(min=3, help="Keep at most so many.")] = 300,
    min_baseline: Annotated[
        float, typer.Option(min=0.001, max=0.5, help="Least median motion from one to the next, over the diagonal.")
    ] = 0.02,
    window: Annotated[float, typer.Option(min=0.01, help="Seconds, of which the sharpest frame is a candidate.")] = 0.2,
) -> None:
    """Write the sharp frames of a video that have a baseline between them, upright, as JPEG.

    Example: scrflow pick-frames yard.mp4 data/yard/images --max-frames 200
    """
    from scrflow.newscene.video import PickOptions
    from scrflow.newscene.video import pick_frames as pick

    picked = pick(video, out, PickOptions(max_frames=max_frames, min_baseline=min_baseline, window_s=window))
    print(
        f"{len(picked.names)} of {picked.decoded} frames ({picked.size[0]}x{picked.size[1]}), {picked.blurred} of "
        f"{picked.candidates} candidates blurred, motion from {picked.min_baseline:.3f} of the diagonal: {out}"
    )


@app.command()
def upright(
    folder: Annotated[Path, typer.Argument(help="Photos.")],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
) -> None:
    """Copy photos, the pixels of those turned that EXIF turns. The other EXIF tags stay, the focal length among them.

    Example: scrflow upright ~/photos/yard ~/photos/yard-upright
    """
    from scrflow.scene.upright import upright as turn

    done = turn(folder, out)
    print(f"{len(done.turned)} photos turned, {done.copied} copied: {out}")


@app.command()
def schema(
    out: Annotated[Path, typer.Option(help="Folder of the schemas.")] = Path("workflow/schemas"),
) -> None:
    """Write the JSON schemas of the config files, for editors that complete and check YAML.

    Example: scrflow schema
    """
    out.mkdir(parents=True, exist_ok=True)
    for name, text in schemas().items():
        (out / name).write_text(text, encoding="utf-8")


def schemas() -> dict[str, str]:
    """File name -> JSON schema, of each kind of config file."""
    from scrflow.config import BaselineConfig, EncoderConfig, GlobalConfig, MethodConfig, SceneConfig, TableConfig
    from scrflow.report.published import PaperConfig

    models = {
        "config": GlobalConfig,
        "scene": SceneConfig,
        "encoder": EncoderConfig,
        "method": MethodConfig,
        "baseline": BaselineConfig,
        "table": TableConfig,
        "paper": PaperConfig,
    }
    return {
        f"{name}.schema.json": json.dumps(model.model_json_schema(), indent=2, ensure_ascii=False) + "\n"
        for name, model in models.items()
    }


def main() -> None:
    """The console script: errors that the user can fix are one line."""
    with exit_on_error():
        app()
