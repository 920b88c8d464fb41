"""Costs of the jobs that a map needed, found by the stamps of what is on disk."""

import pytest
from result_folders import Results
from typer.testing import CliRunner

from scrflow.cli.app import app
from scrflow.core.errors import ScrflowError
from scrflow.report.costs import StageCost, costs_of, mapping_seconds


def stages_of(folder) -> tuple[StageCost, ...]:
    return costs_of(folder).stages


def encoder(results: Results, scene: str, name: str) -> str:
    """PCA and two shards; the folder's name."""
    where = f"{scene}/local/{name}"
    results.artifact(f"{where}/pca.safetensors", "pca", {"extractor": name}, scene=f"{scene}/scene/scene.json")
    results.job(f"fit_pca/{name}", scene)
    for i in range(2):
        sources = {"pca": f"{where}/pca.safetensors", "scene": f"{scene}/scene/scene.json", "shard": str(i)}
        results.artifact(f"{where}/buffer-{i}.h5", "buffer", {"extractor": name}, **sources)
        results.job(f"fill_buffer/{name}-{i}", scene)
    return where


def method(results: Results, name: str, local: str, head: str | None = None, **upstream: str) -> None:
    """Head (or that of another method), map and localization of a method; ``upstream`` are inputs of the head."""
    if head is None:
        head = f"s/{name}/head.safetensors"
        shards = {f"shard{i}": f"{local}/buffer-{i}.h5" for i in range(2)}
        own = {k: v for k, v in upstream.items() if k != "retrieval"}
        results.artifact(head, "head", {"name": name}, **shards, **own)
        results.job(f"train_head/{name}")
    sources = {"scene": "s/scene/scene.json", "head": head, "pca": f"{local}/pca.safetensors"}
    sources |= {k: v for k, v in upstream.items() if k in ("retrieval", "encoding")}
    results.artifact(f"s/{name}/map.safetensors", "map", {"name": name}, **sources)
    results.job(f"write_map/{name}")
    made = {"map": f"s/{name}/map.safetensors", "scene": "s/scene/scene.json"}
    results.artifact(f"s/{name}/localization.json", "localization", {"localize": {}}, **made)
    results.job(f"localize_queries/{name}")


@pytest.fixture()
def results(tmp_path) -> Results:
    """Scene ``s``: ``big`` with a graph, Node2Vec, depths and a fusion of features; ``small`` with neither, by another
    encoder; ``variant`` with the head of ``big``; and what a map of nobody needs."""
    r = Results(tmp_path / "results")
    r.artifact("s/scene/scene.json", "scene", images="0" * 16, content="1" * 16)
    r.job("build_scene")
    r.artifact("s/covisibility.npz", "covisibility", scene="s/scene/scene.json")
    r.job("build_graph")
    for name in ("node2vec", "unused"):
        r.artifact(f"s/encodings/{name}.h5", "global-encoding", {"node2vec": name}, graph="s/covisibility.npz")
        r.job(f"embed_graph/{name}")
    for name in ("vlad", "network", "other"):
        r.artifact(f"s/retrieval/{name}.h5", "retrieval", {"retrieval": name}, scene="s/scene/scene.json")
        r.artifact(f"s/retrieval/{name}.safetensors", "retrieval", {"retrieval": name}, scene="s/scene/scene.json")
        r.job(f"build_retrieval/{name}")
    for suffix in ("h5", "safetensors"):
        parts = {"part0": "s/retrieval/vlad.h5", "part1": "s/retrieval/network.h5"}
        r.artifact(f"s/retrieval/fusion.{suffix}", "retrieval", {"f": 1}, scene="s/scene/scene.json", **parts)
    r.job("build_retrieval/fusion")
    sift, xfeat = encoder(r, "s", "sift"), encoder(r, "s", "xfeat")
    shards = {f"shard{i}": f"{sift}/buffer-{i}.h5" for i in range(2)}
    r.artifact(f"{sift}/depth-matched.h5", "sample-depth", graph="s/covisibility.npz", **shards)
    r.job("triangulate_samples/sift")
    use = {"encoding": "s/encodings/node2vec.h5", "retrieval": "s/retrieval/fusion.safetensors"}
    depth = {"graph": "s/covisibility.npz", "depth": f"{sift}/depth-matched.h5"}
    method(r, "big", sift, **use, **depth)
    method(r, "small", xfeat)
    method(r, "variant", sift, head="s/big/head.safetensors", **use)
    for name in ("evaluate_poses/big", "choose_poses"):
        r.job(name)
    return r


BIG = (
    *("build_scene", "build_graph", "embed_graph/node2vec", "build_retrieval/vlad", "build_retrieval/network"),
    *("build_retrieval/fusion", "fit_pca/sift", "fill_buffer/sift-0", "fill_buffer/sift-1"),
    *("triangulate_samples/sift", "train_head/big"),
)


def test_a_map_counts_what_it_needed(results):
    folder = results.root / "s"
    assert mapping_seconds(folder / "big") == results.of(*BIG, "write_map/big")
    small = ("build_scene", "fit_pca/xfeat", "fill_buffer/xfeat-0", "fill_buffer/xfeat-1", "train_head/small")
    assert mapping_seconds(folder / "small") == results.of(*small, "write_map/small")
    # the head of another method, with all that it needed
    assert mapping_seconds(folder / "variant") == results.of(*BIG, "write_map/variant")


def test_a_combined_scene_counts_its_parts(results):
    for name in ("part1", "part2"):
        results.artifact(f"{name}/scene/scene.json", "scene", images="2" * 16, content=name)
        results.job("build_scene", name)
        encoder(results, name, "xfeat")
    parts = {f"part_{name}": f"{name}/scene/scene.json" for name in ("part1", "part2")}
    results.artifact("s/scene/scene.json", "scene", images="3" * 16, content="4" * 16, **parts)
    method(results, "combined", encoder(results, "s", "disk"))
    jobs = ("build_scene", "fit_pca/disk", "fill_buffer/disk-0", "fill_buffer/disk-1", "train_head/combined")
    scenes = ("part1/build_scene", "part2/build_scene")
    assert mapping_seconds(results.root / "s/combined") == results.of(*jobs, *scenes, "write_map/combined")


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        ("s/local/sift/buffer-1.h5", "s/big/head.safetensors: its input shard1 is gone"),
        ("s/benchmarks/fit_pca/sift.tsv", "s/benchmarks/fit_pca/sift.tsv: no such benchmark file"),
    ],
)
def test_an_incomplete_sum_is_none(results, gone, told):
    (results.root / gone).unlink()
    assert mapping_seconds(results.root / "s/big") is None
    assert any(line.startswith(told) for line in costs_of(results.root / "s/big").unknown)
    assert mapping_seconds(results.root / "s/small") is not None


def test_an_input_that_was_made_again_is_not_counted(results):
    """The head used the earlier graph, whose cost is no longer on disk."""
    results.artifact("s/covisibility.npz", "covisibility", {"graph": "another"}, scene="s/scene/scene.json")
    assert mapping_seconds(results.root / "s/big") is None
    assert any("input graph is gone, or was made again" in line for line in costs_of(results.root / "s/big").unknown)


def test_time_and_memory_are_the_jobs_own_if_it_wrote_them(results):
    log = "2026 DEBUG CPU time 60.00 s, at most 512 MB, GPU at most 2048 MB\n"
    results.job("fit_pca/sift", log="x\n" + log, cpu="12.5")
    results.job("build_graph", log="2026 DEBUG CPU time 1.50 s, at most 64 MB\n")
    results.job("embed_graph/node2vec", cpu="7.25")
    found = {stage.rule: stage for stage in stages_of(results.root / "s/big")}
    pca, graph, node2vec = (found[rule] for rule in ("fit_pca", "build_graph", "embed_graph"))
    assert (pca.cpu_s, pca.max_rss_mb, pca.gpu_mb, pca.cpu_is_bound) == (60, 512, 2048, False)
    assert (graph.cpu_s, graph.max_rss_mb, graph.gpu_mb) == (1.5, 64, None)
    # Snakemake's samples
    assert (node2vec.cpu_s, node2vec.max_rss_mb, node2vec.cpu_is_bound) == (7.25, 100, True)
    assert found["build_scene"].cpu_s is None


def test_a_resumed_training_counts_whole(results):
    history = results.root / "s/big/train.jsonl"
    history.write_text('{"step": 1, "seconds": 1}\n{"step": 9, "seconds": 1e7, "ran": {"gpu_mb": 3000.5}}\n')
    found = {stage.rule: stage for stage in stages_of(results.root / "s/big")}
    assert (found["train_head"].wall_s, found["train_head"].gpu_mb) == (1e7, 3000.5)
    history.write_text('{"step": 9, "seconds": 0.5}\n')
    found = {stage.rule: stage for stage in stages_of(results.root / "s/variant")}
    assert (found["train_head"].wall_s, found["train_head"].gpu_mb) == (results.of("train_head/big"), None)
    history.write_text("[]\n")
    with pytest.raises(ScrflowError, match=r"train\.jsonl: last line"):
        stages_of(results.root / "s/big")


def test_damaged_and_missing_files(results, tmp_path):
    folder = tmp_path / "results/s/none"
    folder.mkdir()
    assert mapping_seconds(folder) is None and stages_of(folder) == ()
    (results.root / "s/benchmarks/build_scene.tsv").write_text("seconds\n1\n")
    with pytest.raises(ScrflowError, match=r"build_scene\.tsv"):
        mapping_seconds(results.root / "s/big")
    for folder in (tmp_path, tmp_path / "absent"):
        error = CliRunner().invoke(app, ["costs", str(folder)]).exception
        assert isinstance(error, ScrflowError) and "results/SCENE/METHOD" in str(error)


def test_command(results, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    done = CliRunner().invoke(app, ["costs", str(results.root / "s/big")])
    assert done.exit_code == 0
    rows = {line.split("  ")[0].strip(): line.split() for line in done.stdout.splitlines()}
    assert rows["train_head big"][2] == f"{results.of('train_head/big')}.0"
    assert rows["map, sum"][2] == f"{results.of(*BIG, 'write_map/big') - results.of('build_scene')}.0"
    assert f"mapping time: {results.of(*BIG, 'write_map/big')}.0 s" in done.stdout
