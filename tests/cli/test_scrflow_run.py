"""``scrflow run`` on a real small workflow, what it reads of Snakemake's output, and the list of commands."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import room_forms
import yaml
from exif_photos import write_video
from PIL import Image
from room_forms import Room, room
from tiny_project import METHOD, REPO, Project, without_scenes
from typer.testing import CliRunner

from scrflow.cli.app import GROUPS, HIDDEN, app, name_of
from scrflow.cli.run import _Output, enter_project, run_scene, scene_of
from scrflow.core.errors import ScrflowError
from scrflow.pipeline.project import Project as Loaded


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """Its method needs few stages: no graph and no retrieval. The photos lie outside of the project."""
    made = Project(tmp_path_factory.mktemp("run") / "project")
    elsewhere = tmp_path_factory.mktemp("my photos") / "tiny"
    (made.folder / "data").rename(elsewhere)
    made.edit("config/scenes/tiny.yaml", "root: data\nin_project: true", f"root: {elsewhere}")
    made.edit("config/config.yaml", "buffer_shards: 2", "buffer_shards: 1")
    few = {**METHOD, "global_encoding": {}, "localize": {**METHOD["localize"], "hypotheses": 1}}
    few["training"] = {**METHOD["training"], "steps": 20}
    made.write("config/methods/quick.yaml", {k: v for k, v in few.items() if k != "retrieval"})
    return made


@pytest.mark.long
def test_run_goes_from_photos_to_the_report_and_goes_on(project):
    planned = project.scrflow("run", "tiny", "--", "--dry-run")
    assert planned.returncode == 0 and "build_scene" in planned.stdout and not (project.folder / "results").exists()

    done = project.scrflow("run", "tiny", "--cores", "2")
    assert done.returncode == 0, done.stderr
    assert "1/9 tiny: reading the scene" in done.stderr and "9/9 " in done.stderr
    assert "localized" in done.stdout and done.stdout.endswith(
        f"report: {project.folder}/results/tiny/quick/report.html\n"
    )
    assert (project.folder / "results/tiny/quick/report.html").is_file()
    assert (project.folder / "results/tiny/poses.txt").is_file()

    again = project.scrflow("run", "tiny", "--method", "quick")
    assert again.returncode == 0 and again.stdout == done.stdout
    assert "Nothing to be done" in (project.folder / "results/tiny/logs/run.log").read_text()

    root = Path(yaml.safe_load(project.read("config/scenes/tiny.yaml"))["root"])
    project.edit(root / "mapping.txt", "mapping/000.jpg", "mapping/nothing.jpg")
    failed = project.scrflow("run", "tiny")
    assert failed.returncode == 1 and failed.stdout == ""
    error = failed.stderr.splitlines()[-1]
    assert error.startswith("error: build_scene tiny: ") and "nothing.jpg" in error
    assert error.endswith("(full log: results/tiny/logs/run.log)")

    root.rename(root.with_name("moved"))
    gone = project.scrflow("run", "tiny")
    assert gone.returncode == 1 and f"{root}: no such folder of the scene" in gone.stderr.splitlines()[-1]


def test_mistakes_name_what_there_is(monkeypatch):
    monkeypatch.chdir(REPO)
    with pytest.raises(ScrflowError, match=r"no scene 'nowhere' .*there are .*demo"):
        run_scene("nowhere", [], None, [])
    with pytest.raises(ScrflowError, match=r"no method 'best' .*there are .*rscore-cpu.*sift-matching"):
        run_scene("demo", ["landmarks", "best"], None, [])
    with pytest.raises(ScrflowError, match=r"/yard: no such file or folder, and no scene '/yard'"):
        scene_of("/yard", Path("/yard"))
    with pytest.raises(ScrflowError, match=r"demo: a scene of config/scenes; change its config instead"):
        scene_of("demo", Path("demo"), outdoor=True)


def test_a_path_gets_a_config_once(tmp_path, monkeypatch):
    """From a folder outside of the project: paths are those of that folder, and its name is the scene's."""
    project = without_scenes(tmp_path / "project")
    for name in ("My yard", "other/My yard", "rscore-cpu"):
        shutil.copytree(REPO / "demo/images/day", tmp_path / name / "images")
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(project / "config")
    enter_project()
    assert Path.cwd() == project
    names = {"My-yard": "My yard", "My-yard-2": "other/My yard/images", "rscore-cpu-2": "rscore-cpu"}
    for start in (tmp_path, tmp_path / "inside/.."):
        for name, path in names.items():
            assert scene_of(path, start / path, outdoor=True) == name
    scenes = Loaded("config").scenes
    assert sorted(scenes) == sorted(names) and scenes["My-yard-2"].depth_bias == 3
    monkeypatch.chdir(tmp_path)
    enter_project()
    assert Path.cwd() == REPO  # that scrflow is installed from


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """A project without scenes, which this process is not in."""
    monkeypatch.chdir(tmp_path)
    return without_scenes(tmp_path / "project")


def photos_with_a_distance(r: Room) -> tuple[str, dict]:
    r.all_photos("yard/{:04d}.jpg")
    true = np.linalg.norm(r.world_from_cam(0)[:3, 3] - r.world_from_cam(9)[:3, 3])
    return "yard", {"known_distance": ("0000.jpg", "0009.jpg", f"{100 * true:.1f}cm")}


def poses_of_a_phone(r: Room) -> tuple[str, dict]:
    room_forms.record3d(r)
    return "EXR_RGBD/metadata.json", {}


def video(r: Room) -> tuple[str, dict]:
    write_video(r.root / "walk.mp4", [Image.open(path) for path in r.sources], 4)
    return "walk.mp4", {}


@pytest.mark.parametrize("write", [photos_with_a_distance, poses_of_a_phone, video], ids=lambda w: w.__name__)
def test_a_path_of_any_kind_and_a_second_call(write, elsewhere, tmp_path, monkeypatch):
    given, options = write(kitchen := room(tmp_path / "room"))
    monkeypatch.chdir(elsewhere)
    path = kitchen.root / given
    name = scene_of(given, path, **options)
    config = Path(f"config/scenes/{name}.yaml")
    before, scene = config.read_text(), Loaded("config").scene(name)
    assert scene.method == "landmarks" and scene.unit == ("unit" if write is video else "m")
    if write is photos_with_a_distance:
        (_, _, length), true = scene.sfm.known_distances[0], [kitchen.world_from_cam(i)[:3, 3] for i in (0, 9)]
        assert length == pytest.approx(np.linalg.norm(true[0] - true[1]), abs=1e-3)
        with pytest.raises(ScrflowError, match=r"yaml: written with other options \(--known-distance 0000\.jpg"):
            scene_of(given, path, outdoor=True)
    if write is video:  # every frame is sharp, and the camera moves
        assert 8 <= len(list(Path("resources/walk/images").glob("*.jpg"))) <= room_forms.COUNT
    assert scene_of(given, path, **options) == scene_of(given, path) == name and config.read_text() == before


def read(text: str) -> tuple[_Output, list[str]]:
    output = _Output()
    return output, [shown for line in text.splitlines() if (shown := output.read(line))]


def test_jobs_side_by_side():
    output, shown = read(
        "Job stats:\njob   count\ntotal        3\n\nlicence: no selling\nJob 5: tiny: PCA\nJob 7: tiny: graph\n"
        "[graph tiny] edges: 79\nFinished jobid: 7 (Rule: build_graph)\n1 of 3 steps (33%) done\n"
    )
    assert shown == ["licence: no selling", "1/3 tiny: graph"]
    assert (output.done, output.total, output.now()) == (1, 3, "tiny: PCA")


def test_the_error_is_the_jobs_own_or_the_end_of_its_log_or_snakemakes(tmp_path):
    log = tmp_path / "a job.log"
    log.write_text("12:00 INFO begins\n12:01 INFO half\n\n")
    killed = (
        "RuleException:\nCalledProcessError in file \"rules/train.smk\", line 9:\nCommand 'x' died with SIGKILL.\n"
        f"Error in rule train_head:\n    message: None\n    log: {log} (check log file(s) for error details)\n"
        "WorkflowError:\nAt least one job did not complete successfully.\n"
    )
    assert read(killed)[0].error() == f"{log}: 12:01 INFO half"
    assert read(f"[train_head tiny] error: no samples\n{killed}")[0].error() == "train_head tiny: no samples"
    log.unlink()
    assert "died with SIGKILL" in read(killed)[0].error()
    missing = "MissingInputException in rule x in file x.smk, line 3:\nMissing input files for rule x:\n    a.txt\n"
    assert read(missing)[0].error() == "Missing input files for rule x: a.txt"
    config = 'WorkflowError in file "common.smk", line 3:\nconfig/x.yaml: key a: wrong\n  File "common.smk", line 1\n'
    assert read(config)[0].error() == "config/x.yaml: key a: wrong"


# ------------------------------------------------------------------------------------------------------------- commands


def test_help_lists_commands_in_groups_and_names_the_others():
    shown = CliRunner().invoke(app, ["--help"]).output
    visible = [name_of(command) for group in GROUPS.values() for command in group]
    for name in visible:
        assert f"\n  {name} " in shown
    for name in map(name_of, HIDDEN):
        assert f"\n  {name} " not in shown and name in shown
        assert "Example: scrflow" in CliRunner().invoke(app, [name, "--help"]).output


def test_help_imports_nothing_heavy():
    heavy = ("torch", "numpy", "pydantic", "snakemake", "pycolmap", "rich", "yaml")
    code = f"import sys; from scrflow.cli.app import main; sys.exit(', '.join({heavy} & sys.modules.keys()))"
    code = code.replace(str(heavy), str(set(heavy)))
    env = {"PYTHONPATH": str(Path(REPO, "src"))}
    assert subprocess.run([sys.executable, "-c", code], env=env, text=True, capture_output=True).stderr == "\n"
