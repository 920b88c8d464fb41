"""What can be said of the workflow without running it."""

import re

import pytest
import yaml
from tiny_project import CONFIG, METHOD, POSES, REPO, SCENE, Project

from scrflow.cli.workflow import schemas
from scrflow.config import deep_merge
from scrflow.core.errors import ScrflowError
from scrflow.pipeline.project import Project as Config


def test_dry_run_of_every_scene_and_of_every_method():
    config = Config(REPO / "config")
    targets = [f"results/{scene}/poses.txt" for scene in config.scenes]
    pairs = [(scene, method) for scene in ("demo", "redkitchen") for method in config.methods]
    targets += [f"results/{scene}/{method}/poses.txt" for scene, method in pairs if config.runs(scene, method)]
    Project.at(REPO).snakemake("-n", *targets)


def test_dry_run_of_every_scene_and_table_where_no_photo_is_at_hand(tmp_path):
    """Tables on the papers' scenes and on those of the sets."""
    config = Config(REPO / "config")
    targets = ["tables", "tables_demo", "tables_real", *(f"results/{scene}/poses.txt" for scene in config.scenes)]
    done = Project.at(REPO).snakemake("-n", *targets, "--config", f"data_root={tmp_path}/nothing")
    jobs = dict(re.findall(r"^(write_table\w*) +(\d+)$", done.stdout, re.M))
    assert int(jobs["write_table"]) == len(config.tables)
    assert int(jobs["write_table_of_set"]) == sum(len(config.table_sets(table)) for table in config.tables)


def test_an_error_of_the_config_is_one_line(project: Project):
    project.edit("config/methods/quick.yaml", "steps: 60", "steps: -1")
    done = project.snakemake("-n", POSES, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stdout
    assert re.search(r"^config/methods/quick.yaml: key training.steps: ", done.stdout, re.M), done.stdout


def test_overrides_reach_what_extends(project: Project):
    project.write("config/methods/other.yaml", {"extends": "quick", "description": "another"})
    config = Config(project.folder / "config", {"seed": 5, "methods": {"quick": {"training": {"steps": 7}}}})
    assert config.config.seed == 5
    assert config.train_stage("tiny", "other").training.steps == 7
    assert config.train_stage("tiny", "other").training.batch_size == 256
    for over, told in (({"quick": {"training": {"stepz": 3}}}, "training.stepz"), ({"quik": {}}, "methods.quik")):
        with pytest.raises(ScrflowError, match=told):
            Config(project.folder / "config", {"methods": over})
    project.write("config/methods/scene.yaml", {"extends": "quick", "description": "a reserved name"})
    with pytest.raises(ScrflowError, match="scene"):
        Config(project.folder / "config")


FEATURES = {
    "net": {"kind": "network", "network": "efficientnet-lite0", "dim": 8, "pq_bytes": 4},
    "both": {"kind": "fusion", "parts": ["vlad", "net"], "weights": [2, 1], "dim": None, "pq_bytes": 8},
}
# name of a scene and of its method -> what differs in method and scene, the stages that it needs and does not need
PLANS = {
    "ace": (
        {"retrieval": None, "global_encoding": {"name": None, "neighbour_share": 0}, "localize": {"hypotheses": 1}},
        {},
        {"train_head"},
        {"build_graph", "embed_graph", "build_retrieval"},
    ),
    "glace": (
        {"global_encoding": {"name": "vlad", "neighbour_share": 0}, "localize": {"hypotheses": 1}},
        {},
        {"build_retrieval"},
        {"build_graph", "embed_graph", "triangulate_samples"},
    ),
    "depths": ({"training": {"mix_share": 0.5}}, {}, {"triangulate_samples"}, {"triangulate_points"}),
    "shared": ({}, {"graph": "points"}, {"triangulate_points"}, {"triangulate_samples"}),
    "photos": (
        {},
        {"source": {"reader": "photos", "images": "images/day"}, "split": {"every": 5}},
        {"reconstruct_scene"},
        {"triangulate_points"},
    ),
}


def test_stages_that_a_config_needs(project: Project):
    changed = {"graphs": {"points": {"kind": "points"}}, "retrieval": FEATURES}
    project.write("config/config.yaml", deep_merge(CONFIG, changed))
    for name, (method, scene, _, _) in PLANS.items():
        project.write(f"config/methods/m-{name}.yaml", deep_merge(METHOD, method))
        project.write(f"config/scenes/{name}.yaml", {**SCENE, **scene, "method": f"m-{name}"})
    project.write("config/methods/fused.yaml", {"extends": "quick", "description": "fusion", "retrieval": "both"})
    plan = project.stages_of(*(f"results/{name}/poses.txt" for name in PLANS))
    for name, (_, _, needed, not_needed) in PLANS.items():
        assert needed <= plan[name] and not not_needed & plan[name], name
    plan = project.planned("results/tiny/fused/poses.txt", "--config", "buffer_shards=3")
    assert plan["build_retrieval"] == 3, "a fusion builds its parts first"
    assert plan["fill_buffer"] == 3
    with pytest.raises(ScrflowError, match=r"retrieval\.both\.parts: no 'ours'; there are net, vlad"):
        Config(project.folder / "config", {"retrieval": {"both": {"parts": ["vlad", "ours"]}}})


def test_absent_photos_are_downloaded_or_named(project: Project):
    scene = yaml.safe_load(project.read("config/scenes/tiny.yaml"))
    scene["in_project"] = False
    project.write("config/scenes/tiny.yaml", scene)
    done = project.snakemake("results/tiny/scene/scene.json", check=False)
    assert done.returncode == 1 and "Traceback" not in done.stdout
    assert re.search(r"\[build_scene tiny\] error: elsewhere/data: .*data_root", done.stdout), done.stdout

    (project.folder / "config/scenes/tiny.tsv").write_text("path\tsha256\turl\n")
    project.write("config/scenes/tiny.yaml", {**scene, "download": {"files": "tiny.tsv"}})
    assert project.planned("results/tiny/scene/scene.json") == {"download_dataset": 1, "build_scene": 1}


def test_what_a_download_brings_is_no_other_input(project: Project):
    """Depth images were inputs as soon as they were there: the second run of a finished scene trained anew."""
    scene = yaml.safe_load(project.read("config/scenes/tiny.yaml"))
    scene |= {"in_project": False, "root": "room", "depth_maps": {"pattern": "depth/{stem}.png", "max_depth": 5}}
    project.write("config/scenes/tiny.yaml", {**scene, "download": {"files": "tiny.tsv"}})
    (project.folder / "config/scenes/tiny.tsv").write_text("path\tsha256\turl\n")

    results, room = project.folder / "results/tiny", project.folder / "resources/room"
    empty = [results / "scene/scene.json", *(results / f"local/small/buffer-{i}.h5" for i in range(2))]
    for path in (*empty, project.folder / "resources/room.downloaded", room / "depth/a.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    wanted = ("--allowed-rules", "read_depth_maps", "--", "results/tiny/local/small/depth-maps.h5")
    out = project.snakemake(*wanted, check=False).stdout  # it cannot be done, and Snakemake says with what
    inputs = re.search(r"^    input: (.*)$", out, re.M)
    assert inputs and "resources/room.downloaded" in inputs[1] and "a.png" not in inputs[1], out


def test_schemas_are_current():
    for name, text in schemas().items():
        path = REPO / "workflow/schemas" / name
        assert path.read_text(encoding="utf-8") == text, f"{path} is not current: run scrflow schema"
