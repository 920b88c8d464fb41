"""``scrflow plan``: the rules' jobs, their costs from finished results or plan.yaml, and what does not fit."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_project import REPO, Project

from scrflow.cli import plan
from scrflow.cli.plan import Job, costed, elapsed_s, laws, problems, units
from scrflow.core.errors import ScrflowError
from scrflow.pipeline.project import Project as Config
from scrflow.storage.artifact import Stamp, write_json

CONFIG = Config(REPO / "config")


def job(rule: str, cpu_s: float = 1.0, mem_mb: float = 100.0, after=(), threads: int = 1, **wildcards: str) -> Job:
    folder = Path("results/new")
    return Job(
        rule=rule,
        wildcards={"scene": "new", **wildcards},
        threads=threads,
        limit_mb=1500.0,
        limit_min=60.0,
        benchmark=f"{folder}/benchmarks/{rule}.tsv",
        outputs=(folder / f"{rule}.bin",),
        after=tuple(after),
        costs={"cpu_s": cpu_s, "mem_mb": mem_mb, "disk_mb": 1.0},
    )


@pytest.mark.parametrize("method", CONFIG.methods)
def test_every_term_is_known_for_every_method(method):
    made = CONFIG.method(method)
    tracks = made.landmarks and made.landmarks.tracks
    wildcards = {"method": method, "encoder": made.encoder, "feature": made.retrieval, "tracks": tracks}
    counts = units(CONFIG, {k: v for k, v in wildcards.items() if v}, method, 1000, 50)
    none = {"muon_gflop", "image_s", "sampled", "walked_s", *({"query_gflop"} if made.head is None else ())}
    of_a_head = {"fit_pca", "fill_buffer", "train_head", "triangulate_samples", "find_point_depths", "read_depth_maps"}
    for rule, law in laws()["rules"].items():
        if (made.head is None and rule in of_a_head) or (tracks is None and rule == "build_tracks"):
            continue
        names = {key.partition("^")[0] for cost in plan.COSTS for key in law[cost]}
        if not wildcards["feature"]:
            names -= {"image_s", "raw_mb"}
        assert all(counts[name] > 0 or name in none for name in names), rule


@pytest.fixture
def finished(tmp_path, monkeypatch) -> Path:
    """results/old, a scene whose evaluation took twice the CPU time and memory that plan.yaml says."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results/old"
    for name in ("benchmarks", "logs"):
        (folder / name).mkdir(parents=True)
    write_json(folder / "scene/scene.json", {"mapping_images": 100, "queries": 500}, Stamp("scene"))
    shipped = costed(job("evaluate_poses"), CONFIG, "rscore-cpu", (100, 500)).costs
    (folder / "benchmarks/evaluate_poses.tsv").write_text("s\tmax_rss\tcpu_time\n4\t100\t0.1\n")
    (folder / "evaluate_poses.bin").write_bytes(bytes(1_000_000))
    usage = f"CPU time {2 * shipped['cpu_s']} s, at most {round(2 * shipped['mem_mb'])} MB"
    (folder / "logs/evaluate_poses.log").write_text(f"begins\n{usage}\n")
    return folder


def test_finished_scenes_give_a_factor(finished):
    law = laws()["rules"]["evaluate_poses"]["cpu_s"]
    found = costed(job("evaluate_poses"), CONFIG, "rscore-cpu", (100, 4000))
    assert found.costs["cpu_s"] == pytest.approx(2 * (law["job"] + 4000 * law["queries"]))
    assert found.costs["mem_mb"] == pytest.approx(2 * (275 + 40), rel=0.01) and found.source == "old"
    unknown = costed(job("write_table"), CONFIG, "rscore-cpu", (100, 4000))
    assert unknown.costs["cpu_s"] is None and unknown.source == "not known"


def test_the_size_of_a_scene_that_is_not_built_must_be_given(finished):
    assert plan._size(CONFIG, "old") == (100, 500) and plan._size(CONFIG, "old", images=7) == (7, 500)
    with pytest.raises(ScrflowError, match=r"aachen: .*give --images"):
        plan._size(CONFIG, "aachen")
    (finished / "scene/scene.json").write_text("{}")
    with pytest.raises(ScrflowError, match=r"scene\.json: .*delete it"):
        plan._size(CONFIG, "old")


def test_jobs_side_by_side():
    four = [job("b", 6, after=[0]) for _ in range(4)]
    jobs = [job("a", 10), *four, job("train_head", 8, after=[0], threads=2), job("d", 1, after=range(1, 6))]
    wide = 8 * (1 - 0.78 + 0.78 / 2)
    assert elapsed_s(jobs, 2) == pytest.approx(10 + 12 + wide + 1)
    assert elapsed_s(jobs, 100) == pytest.approx(10 + 6 + 1)


def test_what_does_not_fit_and_what_to_change():
    jobs = [
        *(job("fill_buffer", mem_mb=3000, encoder="xfeat", shard=str(i)) for i in range(2)),
        job("train_head", cpu_s=1e5, method="x"),
    ]
    found = problems(jobs, 2, 5000, 1)
    assert [line.partition(":")[0] for line in found] == [
        "fill_buffer xfeat",
        "fill_buffer xfeat",
        "train_head x",
        "disk",
    ]
    assert "3.0 GB a job, the rule allows 1.5 GB; set buffer_shards: 6 " in found[0]
    assert "--set-resources fill_buffer:mem_mb=3600" in found[0]
    assert "6.0 GB for 2 jobs side by side" in found[1] and "--resources mem_mb=5000" in found[1]
    assert "takes 27.8 h a job" in found[2]
    fits = [replace(one, limit_mb=4000, limit_min=1e5) for one in jobs]
    assert problems(fits, 2, 7000, 100) == []


def test_the_jobs_are_those_of_the_rules(project: Project):
    done = project.scrflow("plan", "tiny", "--cores", "2")
    assert done.returncode == 0 and done.stderr == "", done.stdout + done.stderr
    assert "tiny, quick: 24 mapping images, 5 queries" in done.stdout and "everything fits" in done.stdout
    planned = project.planned("results/tiny/quick/report.html", "results/tiny/poses.txt")
    shown = [line.split() for line in done.stdout.splitlines()]
    for rule, count in planned.items():
        (row,) = [row for row in shown if row and row[0] == rule]
        assert str(count) in row, rule
    assert f"total: {sum(planned.values())} jobs" in done.stdout
