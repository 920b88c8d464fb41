"""What can be said of the workflow without running it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import yaml
from tiny_project import POSES, REPO, Project

from scrflow.cli.prepare import schemas
from scrflow.core.errors import ScrflowError
from scrflow.pipeline.project import Project as Config


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Snakemake in the repository itself."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SCRFLOW_", "PYTHONPATH"))}
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", *arguments],
        cwd=REPO,
        env={**clean, **env},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )


def test_lint_is_clean():
    done = run("--lint")
    assert done.returncode == 0, done.stdout
    assert "good condition" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("data", ["config", "absent"])
def test_dry_run_of_every_scene_and_of_every_method(tmp_path, data):
    """Also where no photo is at hand."""
    config = Config(REPO / "config")
    targets = [f"results/{scene}/poses.txt" for scene in config.scenes]
    pairs = [(scene, method) for scene in ("demo", "redkitchen") for method in config.methods]
    targets += [f"results/{scene}/{method}/poses.txt" for scene, method in pairs if config.runs(scene, method)]
    env = {"SCRFLOW_DATA": str(tmp_path / "nothing")} if data == "absent" else {}
    done = run("-n", *targets, **env)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_dry_run_of_every_table(tmp_path):
    """On the papers' scenes and on those of the sets, where no photo is at hand."""
    done = run("-n", "tables", "tables_demo", "tables_real", SCRFLOW_DATA=str(tmp_path / "nothing"))
    assert done.returncode == 0, done.stdout
    jobs = dict(re.findall(r"^(write_table\w*) +(\d+)$", done.stdout, re.M))
    config = Config(REPO / "config")
    assert int(jobs["write_table"]) == len(config.tables)
    assert int(jobs["write_table_of_set"]) == sum(len(config.table_sets(table)) for table in config.tables)


def test_default_profile_is_found(project):
    assert "profiles/default" in project.snakemake("-n", POSES).stdout


@pytest.mark.parametrize(
    ("path", "old", "new", "names"),
    [
        ("config/config.yaml", "seed: 1", "seed: one", ["config/config.yaml", "seed"]),
        ("config/scenes/tiny.yaml", "depth_bias: 3", "depth_bais: 3", ["config/scenes/tiny.yaml", "depth_bais"]),
        ("config/encoders/small.yaml", "dim: 32", "dim: 1", ["config/encoders/small.yaml", "pca.dim"]),
        (
            "config/methods/quick.yaml",
            "encoder: small",
            "encoder: smal",
            ["config/methods/quick.yaml", "encoder", "smal"],
        ),
        ("config/methods/quick.yaml", "steps: 60", "steps: -1", ["config/methods/quick.yaml", "training.steps"]),
    ],
)
def test_config_errors_name_file_and_key(project: Project, path, old, new, names):
    project.edit(path, old, new)
    done = project.snakemake("-n", POSES, check=False)
    assert done.returncode == 1
    line = next(line for line in done.stdout.splitlines() if line.startswith(path))
    assert all(name in line for name in names), line
    assert "Traceback" not in done.stdout


def test_overrides(project: Project):
    assert project.planned(POSES, "--config", "buffer_shards=3")["fill_buffer"] == 3
    done = project.snakemake("-n", POSES, "--config", "methods={quick: {training: {stepz: 3}}}", check=False)
    assert "methods/quick.yaml" in done.stdout and "training.stepz" in done.stdout
    done = project.snakemake("-n", POSES, "--config", "methods={quik: {}}", check=False)
    assert "override methods.quik" in done.stdout


def test_overrides_reach_what_extends(project: Project):
    project.write("config/methods/other.yaml", {"extends": "quick", "description": "another"})
    config = Config(project.folder / "config", {"seed": 5, "methods": {"quick": {"training": {"steps": 7}}}})
    assert config.config.seed == 5
    assert config.train_stage("tiny", "other").training.steps == 7
    assert config.train_stage("tiny", "other").training.batch_size == 256
    project.write("config/methods/scene.yaml", {"extends": "quick", "description": "a reserved name"})
    with pytest.raises(ScrflowError, match="scene"):
        Config(project.folder / "config")


def test_method_without_global_encoding_needs_no_graph(project: Project):
    project.write(
        "config/methods/plain.yaml",
        {
            "extends": "quick",
            "description": "ACE",
            "retrieval": None,
            "global_encoding": {"name": None, "neighbour_share": 0},
            "localize": {"hypotheses": 1},
        },
    )
    plan = project.planned("results/tiny/plain/poses.txt")
    assert plan["train_head"] == 1
    assert not {"build_graph", "embed_graph", "build_retrieval"} & plan.keys()


def test_retrieval_feature_as_global_encoding(project: Project):
    own = {"global_encoding": {"name": "vlad", "neighbour_share": 0}, "localize": {"hypotheses": 1}}
    project.write("config/methods/glace.yaml", {"extends": "quick", "description": "GLACE", **own})
    plan = project.planned("results/tiny/glace/poses.txt")
    assert plan["build_retrieval"] == 1
    assert not {"build_graph", "embed_graph"} & plan.keys()


def test_known_depths_are_triangulated_where_asked(project: Project):
    assert "triangulate_samples" not in project.planned(POSES)
    assert (
        project.planned(POSES, "--config", "methods={quick: {training: {mix_share: 0.5}}}")["triangulate_samples"] == 1
    )


def test_features_made_by_hloc_are_an_input(project: Project):
    override = "retrieval={vlad: {kind: hloc, file: 'features/{scene}.h5'}}"
    done = project.snakemake("-n", POSES, "--config", override, check=False)
    assert done.returncode == 1 and "features/tiny.h5" in done.stdout
    (project.folder / "features").mkdir()
    (project.folder / "features/tiny.h5").touch()
    assert project.planned(POSES, "--config", override)["build_retrieval"] == 1


def test_points_graph_is_triangulated(project: Project):
    config = yaml.safe_load(project.read("config/config.yaml"))
    config["graphs"]["points"] = {"kind": "points"}
    project.write("config/config.yaml", config)
    project.edit("config/scenes/tiny.yaml", "depth_bias: 3", "depth_bias: 3\ngraph: points")
    assert project.planned(POSES)["triangulate_points"] == 1


def test_bare_photos_go_through_sfm(project: Project):
    scene = yaml.safe_load(project.read("config/scenes/tiny.yaml"))
    scene["source"] = {"reader": "photos", "images": "images/day"}
    scene["split"] = {"every": 5}
    project.write("config/scenes/tiny.yaml", scene)
    assert project.planned(POSES)["reconstruct_scene"] == 1


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
    alone = (
        "--allowed-rules",
        "read_depth_maps",
        "--",
        str(empty[1].parent.relative_to(project.folder) / "depth-maps.h5"),
    )
    out = project.snakemake(*alone, check=False).stdout  # it cannot be done, and Snakemake says with what
    inputs = re.search(r"^    input: (.*)$", out, re.M)
    assert inputs and "resources/room.downloaded" in inputs[1] and "a.png" not in inputs[1], out


# -------------------------------------------------------------------------------------------------------- other files


def test_schemas_are_current():
    for name, text in schemas().items():
        path = REPO / "workflow/schemas" / name
        assert path.read_text(encoding="utf-8") == text, f"{path} is not current: run scrflow schema"


def pins(path) -> dict[str, str]:
    found = re.findall(r"^(?: +- )?([A-Za-z0-9_.-]+)==(\S+)", path.read_text(), re.M)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def test_conda_environment_has_the_pins_of_requirements():
    assert pins(REPO / "requirements.txt") == pins(REPO / "envs/scrflow.yaml")


def test_every_requirement_is_pinned_and_names_no_index():
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (REPO / name).read_text().splitlines():
            bare = line.split("#")[0].strip()
            assert not bare or bare == "-r requirements.txt" or re.fullmatch(r"[\w.-]+==[\w.]+", bare), line


def test_rules_have_everything():
    """Log, benchmark, threads, resources, message and environment: in every rule but the named targets. What can come
    out of the cache between workflows has its benchmark among the outputs: Snakemake allows no other. What keeps its
    outputs when it fails counts failures."""
    wanted = ("log:", "threads:", "resources:", "message:", "conda:", "mem_mb=", "runtime=")
    for path in sorted((REPO / "rules").glob("*.smk")):
        for text in path.read_text().split("\nrule ")[1:]:
            benchmark = "benchmark=" if "cache: CACHED" in text else "benchmark:"
            if "update(" in text or "kept(" in text:
                assert "failures=failures(" in text, f"{path.name}: {text.split(':')[0]}: would count as done"
            assert not [key for key in (*wanted, benchmark) if key not in text], f"{path.name}: {text.split(':')[0]}"
