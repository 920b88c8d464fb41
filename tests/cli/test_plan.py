"""scrflow plan: predictions held against finished runs, laws, limits and mends, and what the command says."""

import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from scrflow.cli.app import app
from scrflow.cli.plan import PlanRequest, Workload, load_rates, plan, stages_of
from scrflow.cli.plan.calibrate import compare, with_factors
from scrflow.cli.plan.limits import check, read_limits
from scrflow.cli.plan.rates import Amount, RateFile
from scrflow.cli.plan.schedule import elapsed_s
from scrflow.cli.plan.show import belief
from scrflow.cli.plan.sizes import Sizes
from scrflow.cli.plan.stages import Stage, matched_pairs
from scrflow.cli.plan.workload import resolution, workload_of
from scrflow.core.errors import ScrflowError
from scrflow.pipeline.project import Project

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "benchmarks"))

import plan as benchmark  # noqa: E402

PROJECT = Project(REPO / "config")
RATES = load_rates()
RUNS = benchmark.recorded()
CITY = Workload(100_000, 1_000, (1600, 1200), 16.5, 82)


def stage(name: str, method: str = "rscore-cpu", work: Workload = CITY, **more) -> Stage:
    return next(s for s in stages_of(PROJECT, method, work, RATES, **more) if s.name.split()[0] == name)


# ---------------------------------------------------------------------------------------------------------- predictions


@pytest.fixture(scope="module")
def held():
    return benchmark.leave_one_out(PROJECT, RUNS)


@pytest.mark.parametrize("scene", RUNS)
def test_a_scene_is_predicted_by_the_others(held, scene):
    """Measured: all stages together 0.92 to 1.14 times the CPU seconds, a stage of more than 5 s 0.84 to 1.30 times,
    its memory 0.82 to 1.22 times; disk 1.01 to 1.03, the map's size 1.00. (build_scene takes some 2 s more since.)"""
    found = held[scene]
    assert len(found.compared) >= 13
    assert 0.8 < found.cpu_ratio < 1.25
    for one in found.compared:
        if one.cpu_s[1] >= 5:
            assert 0.75 < one.cpu_ratio < 1.4, one
            assert 0.75 < one.mem_ratio < 1.3, one
    assert found.disk_mb[0] / found.disk_mb[1] == pytest.approx(1, abs=0.06)
    assert found.map_mb[0] / found.map_mb[1] == pytest.approx(1, abs=0.01)


def test_every_job_of_a_finished_run_is_in_the_plan(held):
    for scene, run in RUNS.items():
        rules = {cost.rule for cost in run.costs}
        planned = stages_of(PROJECT, "rscore-cpu", run.work, RATES)
        assert rules <= {s.rule for s in planned}
        jobs = {rule: sum(s.jobs for s in planned if s.rule == rule) for rule in rules}
        assert jobs == {rule: sum(cost.rule == rule for cost in run.costs) for rule in rules}, scene


def test_wall_clock_on_two_cores(held):
    """README: 185 s and 188 s from the photos to the metrics; fox, 222 s, ran beside other work."""
    assert held["demo"].elapsed_s == pytest.approx(185, rel=0.2)
    assert held["redkitchen"].elapsed_s == pytest.approx(188, rel=0.2)


def test_calibration_takes_out_a_factor(held):
    """A machine half as fast, with the same memory: the factor is found, whatever the rule."""
    slow = [replace(cost, cpu_s=2 * cost.cpu_s) for cost in RUNS["demo"].costs]
    stages = stages_of(PROJECT, "rscore-cpu", RUNS["demo"].work, RATES)
    once, twice = (with_factors(RATES, compare(stages, costs)) for costs in (RUNS["demo"].costs, slow))
    train = [rates.factors["train_head"] for rates in (once, twice)]
    assert train[1][0] == pytest.approx(2 * train[0][0]) and train[1][1] == pytest.approx(train[0][1])
    again = compare(stages_of(PROJECT, "rscore-cpu", RUNS["demo"].work, twice), slow)
    assert next(one for one in again if one.rule == "train_head").cpu_ratio == pytest.approx(1)


# ----------------------------------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize("method", PROJECT.methods)
def test_every_method_can_be_planned(method):
    stages = stages_of(PROJECT, method, replace(CITY, bare=True), RATES)
    names = {s.name for s in stages}
    assert all(math.isfinite(s.cpu_s.value) and s.cpu_s.value > 0 and s.mem_mb.value > 0 for s in stages)
    assert all(set(s.after) <= names for s in stages) and stages[-1].rule == "choose_poses"
    seen: set[str] = set()
    for s in stages:  # an order in which they can run
        assert set(s.after) <= seen
        seen.add(s.name)


def test_twice_the_images():
    """Filling is linear, the graph a little more, training the same; the buffer of the papers has a size of its own."""
    double = replace(CITY, images=2 * CITY.images)

    def ratio(name: str, of: str = "cpu_s", method: str = "rscore-cpu") -> float:
        small, large = (getattr(stage(name, method, work), of) for work in (CITY, double))
        return large.value / small.value

    assert ratio("fill_buffer") == pytest.approx(2, rel=0.01) and ratio("fill_buffer", "mem_mb") > 1.9
    assert 2.0 < ratio("build_graph") < 2.3 and 1.9 < ratio("embed_graph") < 2.1
    assert ratio("train_head") == 1 and ratio("train_head", "mem_mb") < 1.2
    samples = [Sizes(PROJECT, work, PROJECT.method("rscore")).samples for work in (replace(CITY, images=4328), CITY)]
    assert samples[0] == pytest.approx(128e6, rel=0.05) and samples[1] == 100_000 * 5_000


def test_pairs_are_those_that_are_matched():
    """Counted in the graphs of the three scenes: 1 775, 3 925 and 649."""
    for scene, pairs in {"demo": 1775, "redkitchen": 3925, "fox": 649}.items():
        assert matched_pairs(RUNS[scene].work) == pytest.approx(pairs, rel=0.06)
    sparse = Workload(1000, 10, (640, 480), 10.0, 20)
    assert matched_pairs(sparse) == 5000


def test_gpu_hours_are_the_papers():
    """GLACE on Aachen: 150 minutes on eight Quadro RTX 6000, from which the rate was taken; R-SCoRe: 4 h on four."""
    aachen = replace(CITY, images=4328)
    for method, gpu, hours in (("glace-aachen", "quadro-rtx-6000", 8 * 2.5), ("rscore", "rtx-4090", 4 * 4.0)):
        train = stage("train_head", method, aachen, gpu=gpu)
        assert train.gpu_s.value / 3600 == pytest.approx(hours, rel=0.02)
        assert "paper, not measured here" in belief(train)
    with pytest.raises(ScrflowError, match="--gpu h100: no rate of it; there are quadro-rtx-6000, rtx-4090"):
        stage("train_head", "rscore", aachen, gpu="h100")


def test_belief_says_how_far_beyond():
    assert belief(stage("train_head", work=RUNS["demo"].work)) == "measured"
    clusters = stage("cluster_features", "glace-cpu-clusters", RUNS["demo"].work)
    assert belief(clusters) == "assumed"
    million = stage("embed_graph", work=replace(CITY, images=1_000_000))
    assert belief(million) == "measured, extrapolated x 20"  # measured to 50 000
    assert belief(stage("build_retrieval", "rscore", replace(CITY, images=140))).startswith("assumed")


def test_rates_are_well_formed(tmp_path):
    for key, rate in RATES.file.rates.items():
        assert rate.range is None or rate.range[0] <= rate.range[1], key
    values = RATES.file.model_dump(mode="json")
    values["rates"]["train.mem_mb"].pop("range")
    with pytest.raises(ValueError, match="what is measured was measured somewhere"):
        RateFile.model_validate(values)
    (tmp_path / "rates.yaml").write_text("rates: {}\nspeed: 3\n")
    with pytest.raises(ScrflowError, match=r"rates\.yaml: key machine: field required.*key speed: extra"):
        load_rates(tmp_path / "rates.yaml")


def test_jobs_beside_each_other():
    def of(name: str, jobs: int, seconds: float, *after: str, parallel: float = 0.0) -> Stage:
        return Stage(name, "", jobs, Amount(seconds), Amount(1), 0, after, parallel)

    stages = (of("a", 1, 10), of("b", 4, 6, "a"), of("c", 1, 8, "a", parallel=1.0), of("d", 1, 1, "b", "c"))
    threads = {"a": 1, "b": 1, "c": 2, "d": 1}
    # a; two of b, two of b, then c with two threads in 4 s; d
    assert elapsed_s(stages, threads, 2) == pytest.approx(10 + 12 + 4 + 1)
    assert elapsed_s(stages, threads, 1) == pytest.approx(10 + 24 + 8 + 1)
    assert elapsed_s(stages, threads, 100) == pytest.approx(10 + 6 + 1)


# --------------------------------------------------------------------------------------------------------------- limits


def test_limits_of_the_rules():
    limits = read_limits(REPO / "rules", PROJECT.method("rscore"), None, 2)
    planned = {s.rule for m in PROJECT.methods for s in stages_of(PROJECT, m, replace(CITY, bare=True), RATES)}
    for rule in planned:
        limit = limits.of(rule)
        assert limit.mem_mb and limit.runtime_min and limit.threads >= 1, rule
    train = limits.of("train_head")
    assert train.mem_mb == 1500 + round(40 * 2**30 / 1e6) and train.gpus == 1 and train.threads == 8
    assert limits.of("build_named_graph") == limits.of("build_graph")  # use rule ... with
    assert limits.of("fit_pca").threads == 1  # half of this machine's two cores


@pytest.fixture
def profile(tmp_path):
    def write(**values) -> Path:
        (tmp_path / "profile").mkdir(exist_ok=True)
        (tmp_path / "profile/config.yaml").write_text(yaml.safe_dump(values))
        return tmp_path / "profile"

    return write


def test_a_profile_goes_before_the_rules(profile):
    folder = profile(
        **{
            "set-resources": {"fill_buffer": {"mem_mb": 6000, "runtime": "2h"}, "train_head": {"mem": "64GB"}},
            "set-threads": ["train_head=16"],
            "retries": 2,
            "jobs": 50,
        }
    )
    limits = read_limits(REPO / "rules", PROJECT.method("rscore"), folder, 2)
    assert (limits.of("fill_buffer").mem_mb, limits.of("fill_buffer").runtime_min) == (6000, 120)
    assert (limits.of("train_head").mem_mb, limits.of("train_head").threads) == (64_000, 16)
    assert limits.of("fit_pca").threads == 4 and limits.of("fit_pca").said_by == "the rule"
    assert limits.of("fill_buffer").said_by == str(folder) and (limits.retries, limits.jobs) == (2, 50)
    odd = profile(**{"set-resources": ["fill_buffer:mem_mb=2 * input.size_mb"]})
    assert read_limits(REPO / "rules", PROJECT.method("rscore"), odd, 2).unread == (
        "fill_buffer: mem_mb=2 * input.size_mb",
    )


def test_the_projects_profiles_can_be_read():
    found = sorted(path.parent for path in (REPO / "profiles").glob("*/config*.yaml"))
    assert found
    for folder in found:
        assert read_limits(REPO / "rules", PROJECT.method("rscore"), folder, 2).rules


def test_the_mend_mends(profile, tmp_path):
    """Every number that a line names makes the stage fit when it is set."""
    folder = profile(retries=0)
    work = replace(CITY, images=20_000, size=(640, 480))
    problems = problems_of(work, "rscore-cpu", PROJECT, folder, tmp_path)
    assert {p.stage.split()[0] for p in problems} >= {"fill_buffer", "triangulate_samples"}
    buffer = " ".join(str(p) for p in problems if p.stage.startswith("fill_buffer"))
    shards = max(map(int, re.findall(r"set buffer_shards: (\d+)", buffer)))
    assert shards > PROJECT.config.buffer_shards
    mended = Project(REPO / "config", overrides={"buffer_shards": shards})
    left = {p.stage.split()[0] for p in problems_of(work, "rscore-cpu", mended, folder, tmp_path)}
    assert "fill_buffer" not in left
    asked = re.findall(r"--set-resources (\w+):(\w+)=(\d+)", " ".join(map(str, problems)))
    resources: dict[str, dict[str, int]] = {}
    for rule, key, value in asked:
        resources.setdefault(rule, {})[key] = int(value)
    folder = profile(**{"set-resources": resources})
    assert [p for p in problems_of(work, "rscore-cpu", PROJECT, folder, tmp_path) if p.stage != "disk"] == []


def problems_of(work: Workload, method: str, project: Project, profile: Path | None, results: Path):
    limits = read_limits(REPO / "rules", project.method(method), profile, 2)
    return check(stages_of(project, method, work, RATES), limits, project, results, 2)


def test_less_memory_for_training(profile, tmp_path):
    folder = profile(**{"set-resources": {"train_head": {"mem_mb": 16_000}}})
    (line,) = [
        str(p)
        for p in problems_of(replace(CITY, images=4328), "rscore", PROJECT, folder, tmp_path)
        if p.stage == "train_head rscore" and "needs" in str(p)
    ]
    mib = int(re.search(r"training\.buffer_memory: (\d+) MiB", line)[1])
    assert 8_000 < mib < 15_300
    less = {"methods": {"rscore": {"training": {"buffer_memory": f"{mib} MiB"}}}}
    project = Project(REPO / "config", overrides=less)
    left = problems_of(replace(CITY, images=4328), "rscore", project, folder, tmp_path)
    assert not [p for p in left if p.stage == "train_head rscore" and "needs" in str(p)]


def test_what_this_machine_has_not(tmp_path):
    """A million photos are more than any machine that runs the tests has memory for, and weeks of training on a CPU are
    more than the rule allows."""
    problems = problems_of(replace(CITY, images=1_000_000), "rscore", PROJECT, None, tmp_path)
    text = "\n".join(map(str, problems))
    assert re.search(r"fill_buffer dedode-128m: needs .* TB.*, this machine has", text)
    assert "train on a GPU (--gpu)" in text and "disk:" in text
    small = problems_of(RUNS["demo"].work, "rscore-cpu", PROJECT, None, tmp_path)
    assert [p for p in small if "this machine" not in str(p)] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no profile of Snakemake"), ("[1, 2]", "expected keys and values"), ("a: [", "not YAML")],
)
def test_profiles_that_are_none(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ScrflowError, match=message):
        read_limits(REPO / "rules", PROJECT.method("rscore"), tmp_path, 2)


# -------------------------------------------------------------------------------------------------------------- command


def run(*arguments: object):
    return CliRunner().invoke(app, ["plan", *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch):
    monkeypatch.chdir(REPO)


def test_a_scene_that_is_there():
    done = run("demo", "--cores", 2)
    assert "demo, rscore-cpu: 140 mapping images, 60 queries" in done.output
    assert re.search(r"fill_buffer xfeat +2 ", done.output) and "total: 15 jobs" in done.output
    assert "GPU (not measured here)" not in done.output


def test_a_scene_that_is_not(profile):
    done = run("--images", 100_000, "--method", "rscore", "--gpu", "rtx-4090", "--profile", profile(jobs=10), "--rates")
    assert done.exit_code == 1
    assert "100,000 mapping images, 100 queries" in done.output and "16.0 h of GPU (not measured here)" in done.output
    assert re.search(r"does not fit: fill_buffer dedode-128m: needs .*set buffer_shards: \d+", done.output)
    assert "R-SCoRe's authors" in done.output and "extrapolated x" in done.output


def test_all_fits(profile, capsys):
    generous = {rule: {"mem_mb": 10**7, "runtime": 10**6} for rule in read_limits(
        REPO / "rules", PROJECT.method("rscore-cpu"), None, 2).rules}  # fmt: skip
    folder = profile(**{"set-resources": generous})
    request = PlanRequest(None, images=200, profile=folder)
    assert plan(request, Console(width=200))
    assert f"everything fits ({folder})" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to plan"),
        (("nowhere",), "no scene 'nowhere'"),
        (("--images", 10, "--resolution", "640"), "expected WIDTHxHEIGHT"),
        (("--images", 10, "--method", "x"), "no method 'x'"),
        (("--calibrate", "results/nowhere/rscore-cpu"), "not results/SCENE/METHOD"),
        (("hyundai-b1",), "give --images"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    done = run(*arguments)
    assert done.exit_code == 2 and message in done.output and len(done.output.strip().splitlines()) == 1


def test_numbers_of_a_scene(tmp_path):
    (tmp_path / "demo/scene").mkdir(parents=True)
    path = tmp_path / "demo/scene/scene.json"
    path.write_text('{"mapping_images": 12, "queries": 5}')
    assert workload_of(PROJECT, "demo", tmp_path).images == 12
    assert workload_of(PROJECT, "demo", tmp_path, images=70).images == 70
    path.write_text("{}")
    with pytest.raises(ScrflowError, match="not a scene artifact"):
        workload_of(PROJECT, "demo", tmp_path)
    assert resolution("1600X1200") == (1600, 1200)
