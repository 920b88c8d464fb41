"""hloc's rules need hloc and the network, so only their plans are tested."""

import json
from pathlib import Path

import pytest
import yaml
from tiny_project import REPO, SCENE, Project

HLOC = {"features": "disk", "matcher": "disk+lightglue", "retrieval": "netvlad", "pairs": 5}
FILES = {"features": "hloc", "hloc_features": "results/{scene}/hloc/features.h5"}
FILES |= {"hloc_matches": "results/{scene}/hloc/matches.h5"}


@pytest.fixture()
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "project")
    config = yaml.safe_load(made.read("config/config.yaml"))
    config["hloc"] = HLOC
    config["retrieval"]["hloc-netvlad"] = {"kind": "hloc", "file": "results/{scene}/hloc/global-feats-netvlad.h5"}
    made.write("config/config.yaml", config)
    return made


def test_plans(project: Project):
    first = {"build_scene", "list_hloc_images"}
    plan = project.planned("results/tiny/retrieval/hloc-netvlad.h5")
    assert plan.keys() == {*first, "hloc_global_features", "build_retrieval"}
    plan = project.planned("results/tiny/hloc/triangulated")
    made = {"hloc_global_features", "hloc_local_features", "hloc_pairs", "hloc_match"}
    assert plan.keys() == {*first, *made, "hloc_triangulate"}


def test_sfm_from_hloc_of_bare_photos_runs_in_no_circle(project: Project):
    scene = {**SCENE, "source": {"reader": "photos", "images": "images/day"}, "split": {"every": 5}, "sfm": FILES}
    project.write("config/scenes/tiny.yaml", scene)
    plan = project.planned("results/tiny/scene/scene.json")
    made = {"list_hloc_images", "hloc_global_features", "hloc_local_features", "hloc_pairs", "hloc_match"}
    assert plan.keys() == {*made, "reconstruct_scene", "build_scene"}
    # the first of them needs nothing of hloc's
    project.snakemake("results/tiny/hloc/images.json")
    listed = json.loads(project.read("results/tiny/hloc/images.json"))
    photos = sorted(p.name for p in (REPO / "demo/images/day").iterdir())
    assert listed["image_root"] == "data/images/day" and listed["mapping"] == photos and listed["queries"] == []
    # without hloc the next says so in one line
    done = project.snakemake("results/tiny/hloc/features.h5", check=False)
    assert done.returncode == 1 and "hloc is not installed" in done.stdout and "Traceback" not in done.stdout
