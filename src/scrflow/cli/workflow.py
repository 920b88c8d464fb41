"""Commands that run the workflow or prepare it: run, plan, new-scene, validate, pick-frames, upright, schema."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from scrflow.cli import ConfigDir
from scrflow.core.errors import exit_on_error

# what new-scene and run take alike
Queries = Annotated[
    list[Path] | None,
    typer.Option(help="List of query photos, or the folder they are in; may be repeated, each a condition."),
]
Outdoor = Annotated[bool, typer.Option("--outdoor", help="Depths and thresholds for outdoors, not rooms.")]
Gps = Annotated[bool, typer.Option("--gps", help="Bare photos: SfM in metres by the GPS of EXIF.")]
Positions = Annotated[
    Path | None, typer.Option(help="Bare photos: SfM in the frame of a list of positions, lines 'name x y z'.")
]
KnownDistance = Annotated[
    tuple[str, str, str] | None,
    typer.Option(metavar="A B 3.2m", help="Bare photos: SfM in metres by how far apart two photos were taken."),
]


def run(
    scene: Annotated[
        str, typer.Argument(metavar="SCENE_OR_PATH", help="A scene of config/scenes; or what new-scene takes.")
    ],
    snakemake: Annotated[
        list[str] | None, typer.Argument(metavar="-- SNAKEMAKE_ARGS", help="Passed on to Snakemake.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Method or baseline, repeatable; default: the scene's.")
    ] = None,
    cores: Annotated[int | None, typer.Option(min=1, help="Default: all of this machine.")] = None,
    queries: Queries = None,
    outdoor: Outdoor = False,
    gps: Gps = False,
    positions: Positions = None,
    known_distance: KnownDistance = None,
) -> None:
    """Run the workflow of a scene, or of your photos: from photos to poses.

    PATH may lie anywhere: photos, a video, a model or dataset with poses. The first run writes config/scenes/NAME.yaml,
    NAME being the folder's. Options from --queries on are for a PATH (scrflow new-scene has more of them).

    Shows the progress, and ends with the summary. Run it again to go on after a stop. Everything lands in
    results/SCENE; the full log is results/SCENE/logs/run.log.

    Example: scrflow run demo

    Example: scrflow run ~/photos/yard --outdoor

    Example: scrflow run ~/photos/yard --known-distance IMG_1.jpg IMG_7.jpg 3.2m

    Example: scrflow run ~/videos/kitchen.mp4

    Example: scrflow run ~/models/office/transforms.json --queries ~/models/office/queries.txt

    Example: scrflow run redkitchen --method rscore-cpu --method landmarks --cores 4

    Example: scrflow run yard -- --config seed=3 --rerun-triggers mtime
    """
    from scrflow.cli.run import enter_project, run_scene, scene_of

    path = Path(scene).expanduser().absolute()
    given = {
        "queries": tuple(query.expanduser().absolute() for query in queries or ()),
        "outdoor": outdoor,
        "gps": gps,
        "positions": positions and positions.expanduser().absolute(),
        "known_distance": known_distance,
    }
    enter_project()
    run_scene(scene_of(scene, path, **given), method or [], cores, snakemake or [])


def plan(
    scene: Annotated[str, typer.Argument(metavar="SCENE", help="A scene of config/scenes.")],
    method: Annotated[str | None, typer.Option(help="Default: the scene's.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Plan for this number of mapping images.")] = None,
    queries: Annotated[int | None, typer.Option(min=1, help="Plan for this number of queries.")] = None,
    cores: Annotated[int | None, typer.Option(min=1, help="Default: all of this machine.")] = None,
) -> None:
    """Print what a scene will cost, and what does not fit.

    Jobs and limits are those of the rules. Time, memory and disk are scaled by the scene's size from the benchmark
    files of finished scenes under results/, or else from figures measured on the demo. Training is on the CPU. Exit
    status 1 when a job does not fit its limits or this machine; the line says what to change.

    Example: scrflow plan demo

    Example: scrflow plan redkitchen --method rscore --images 20000 --cores 16
    """
    from scrflow.cli.plan import print_plan

    with exit_on_error(2):
        fits = print_plan(scene, method, images, queries, cores)
    raise typer.Exit(0 if fits else 1)


def new_scene(
    name: Annotated[str, typer.Argument(help="Name of the scene: results/NAME.")],
    path: Annotated[Path, typer.Argument(help="A folder of photos, a model with its images, a video, a dataset.")],
    queries: Queries = None,
    every: Annotated[int | None, typer.Option(min=2, help="Instead of a list: every n-th image is a query.")] = None,
    outdoor: Outdoor = False,
    unit: Annotated[str | None, typer.Option(help="Unit of length of given poses, e.g. m.")] = None,
    single_camera: Annotated[
        bool | None, typer.Option(help="One camera took the bare photos. Default: by EXIF.")
    ] = None,
    skip_missing: Annotated[bool, typer.Option("--skip-missing", help="Leave out frames without image.")] = False,
    guess_cameras: Annotated[
        bool, typer.Option("--guess-cameras", help="Guess missing intrinsics of queries.")
    ] = False,
    gps: Gps = False,
    positions: Positions = None,
    known_distance: KnownDistance = None,
    form: Annotated[str | None, typer.Option(help="Take PATH for this form where several fit, e.g. photos.")] = None,
    method: Annotated[str | None, typer.Option(help="Default: rscore with a GPU, landmarks without.")] = None,
    licence: Annotated[str, typer.Option(help="Of the photos.")] = "of the owner of the photos",
    description: Annotated[str | None, typer.Option(help="A line on the place.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="For a video's frames, or upright copies (default: resources/NAME/images).")
    ] = None,
    max_frames: Annotated[int, typer.Option(min=3, help="Most frames to take of a video.")] = 300,
    out: Annotated[Path | None, typer.Option(help="Folder of NAME.yaml (default: CONFIG/scenes).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a config that is there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Print what would be written.")] = False,
    config: ConfigDir = Path("config"),
) -> None:
    """Write the config of your own scene from its photos or dataset.

    Says what is there and what is missing. Knows bare photos (poses by SfM), videos (frames are picked first), and
    the forms of docs/datasets.md: COLMAP, nerfstudio, TUM RGB-D, ACE Zero, Polycam, Record3D, RealityCapture,
    OpenMVG, OpenSfM, Bundler, ROS bags, DSAC*, 7-Scenes, kapture and others.

    Example: scrflow new-scene yard ~/photos/yard --outdoor

    Example: scrflow new-scene yard ~/photos/yard --known-distance IMG_1.jpg IMG_7.jpg 3.2m

    Example: scrflow new-scene hall ~/photos/map --queries ~/photos/day --queries ~/photos/night
    """
    given = locals()
    from scrflow.cli.run import enter_project
    from scrflow.newscene import NewScene
    from scrflow.newscene import new_scene as command

    options = NewScene(**{key: given[key] for key in NewScene.model_fields})
    out, images = (p and p.expanduser().absolute() for p in (out, images))
    config = enter_project(config)
    written = command(options, config, out, images, max_frames, force, dry_run)
    if written.is_file() and written.parent.resolve() == (config / "scenes").resolve():
        print(f"next: look at it, then scrflow run {name}")


def check(
    scene: Annotated[str, typer.Argument(metavar="SCENE_OR_PATH", help="A scene of config/scenes, or photos.")],
    config: ConfigDir = Path("config"),
) -> None:
    """Say whether the photos are good enough: blur, darkness, overlap, parallax.

    Takes a minute at most. Where SfM of the scene is done, says of its model too which photos it left out and whether
    the others hang together. Exit status 1 with advice on what to take again.

    Example: scrflow check ~/photos/yard

    Example: scrflow check yard
    """
    from scrflow.cli.run import enter_project, print_check

    path = Path(scene).expanduser().absolute()
    if print_check(scene, path, enter_project(config)):
        raise typer.Exit(1)


def validate(config: ConfigDir = Path("config")) -> None:
    """Check the whole config; list scenes, photos and licences.

    Says which scenes' photos are at hand, and what may not be used commercially.

    Example: SCRFLOW_DATA=/data scrflow validate
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from scrflow.pipeline.project import Project

    project = Project(config)
    table = Table("scene", "reader", "default method", "photos", "commercial use")
    for name, scene in project.scenes.items():
        cells = (name, scene.source.reader, scene.method, _photos(project, name), scene.commercial_use)
        table.add_row(*map(escape, cells))
    console = Console()
    console.print(table)
    console.print(f"encoders: {', '.join(project.encoders)}", f"methods: {', '.join(project.methods)}", sep="\n")
    restricted = dict.fromkeys(
        [found for name in project.encoders for found in project.encoder_restrictions(name)]
        + [found for name in project.config.retrieval for found in project.feature_restrictions(name)]
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


def pick_frames(
    video: Annotated[Path, typer.Argument(help="Any file that FFmpeg reads.")],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    max_frames: Annotated[int, typer.Option(min=3, help="Most frames to keep.")] = 300,
    min_baseline: Annotated[float, typer.Option(min=0.001, max=0.5, help="Least motion, over the diagonal.")] = 0.02,
    window: Annotated[float, typer.Option(min=0.01, help="Seconds, of which the sharpest frame is a candidate.")] = 0.2,
) -> None:
    """Pick sharp frames of a video with a baseline between them.

    They are written upright, as JPEG.

    Example: scrflow pick-frames yard.mp4 data/yard/images --max-frames 200
    """
    from scrflow.newscene.video import pick_frames as pick

    picked = pick(video, out, max_frames, min_baseline, window)
    print(
        f"{len(picked.names)} of {picked.decoded} frames ({picked.size[0]}x{picked.size[1]}), {picked.blurred} of "
        f"{picked.candidates} candidates blurred, motion from {picked.min_baseline:.3f} of the diagonal: {out}"
    )


def upright(
    folder: Annotated[Path, typer.Argument(help="Photos.")],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
) -> None:
    """Copy photos, and turn the pixels of those that EXIF turns.

    The other EXIF tags stay, the focal length among them.

    Example: scrflow upright ~/photos/yard ~/photos/yard-upright
    """
    from scrflow.scene.photo_files import upright as turn

    done = turn(folder, out)
    print(f"{len(done.turned)} photos turned, {done.copied} copied: {out}")


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
    from scrflow import config as c

    models = {
        "config": c.GlobalConfig,
        "scene": c.SceneConfig,
        "encoder": c.EncoderConfig,
        "method": c.MethodConfig,
        "baseline": c.BaselineConfig,
        "table": c.TableConfig,
        "paper": c.PaperConfig,
    }
    return {
        f"{name}.schema.json": json.dumps(model.model_json_schema(), indent=2, ensure_ascii=False) + "\n"
        for name, model in models.items()
    }
