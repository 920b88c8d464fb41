"""Snakemake's cache between workflows: what two working directories share, and what they must not."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tiny_project import POSES, Project

from scrflow.report.costs import costs_of

pytestmark = pytest.mark.long

PCA = "results/tiny/local/small/pca.safetensors"
SHARDS = [f"results/tiny/local/small/buffer-{i}.h5" for i in range(2)]
RETRIEVAL = [f"results/tiny/retrieval/vlad.{suffix}" for suffix in ("h5", "safetensors", "json")]
CACHED = {"fit_pca", "fill_buffer", "build_retrieval"}


class Sharing(Project):
    """A project that uses a cache which others use too."""

    def __init__(self, folder: Path, cache: Path):
        super().__init__(folder)
        cache.mkdir(exist_ok=True)
        self.cache = cache

    def environment(self) -> dict[str, str]:  # type: ignore[override]
        return {**super().environment(), "SNAKEMAKE_OUTPUT_CACHE": str(self.cache)}

    def run(self, *targets: str, check: bool = True) -> str:
        return self.snakemake("--cache", "--", *targets, check=check).stdout

    def entry(self, path: str) -> Path:
        """File of the cache that an output is a link to."""
        link = self.folder / path
        assert link.is_symlink(), path
        return Path(os.readlink(link))


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache") / "shared"


@pytest.fixture(scope="module")
def first(cache, tmp_path_factory) -> Sharing:
    """It fills the cache, up to what training takes in."""
    done = Sharing(tmp_path_factory.mktemp("first") / "project", cache)
    done.run(*SHARDS, *RETRIEVAL)
    assert done.entry(SHARDS[0]) != done.entry(SHARDS[1]), "Snakemake's key knows no wildcards"
    return done


def from_cache(out: str, path: str) -> bool:
    stored = f"Moving output file {path} to cache" in out
    assert stored or f"Symlinking output file {path} from cache" in out, out
    return not stored


def test_another_working_directory_has_the_same_poses(first: Sharing, finished: Project, cache, tmp_path):
    other = Sharing(tmp_path / "project", cache)
    before = sorted(cache.iterdir())
    out = other.run(POSES)
    for path in (PCA, *SHARDS, *RETRIEVAL):
        assert from_cache(out, path) and other.entry(path) == first.entry(path), path
    assert sorted(cache.iterdir()) == before
    assert {path.stat().st_mode & 0o444 for path in before} == {0o444}, "others could not read it"
    for path in (POSES, "results/tiny/quick/head.safetensors", *SHARDS, *RETRIEVAL):
        assert other.read(path) == finished.read(path), path  # which was made without a cache
    assert "Nothing to be done" in other.run(POSES)
    assert "Nothing to be done" in other.snakemake(POSES).stdout, "neither with nor without the cache"

    ran, fetched = costs_of(first.folder / "results/tiny/quick"), costs_of(other.folder / "results/tiny/quick")
    assert not ran.stages and not fetched.unknown
    assert {stage.rule for stage in fetched.stages if stage.cached} == CACHED
    for stage in fetched.stages:
        assert stage.wall_s > 0, stage
        if stage.cached:  # exact, as the job counted it
            assert stage.cpu_s > 0 and not stage.cpu_is_bound and stage.max_rss_mb > 50, stage
            name = f"results/tiny/benchmarks/{stage.rule}/{stage.wildcards}.tsv"
            assert other.read(name) == first.read(name)


def test_another_photo_is_another_entry(first: Sharing, cache, tmp_path):
    """Photos are inputs of no rule: Snakemake's own key would be the same."""
    other = Sharing(tmp_path / "project", cache)
    images = other.folder / "data/images"
    originals = images.resolve()
    images.unlink()
    shutil.copytree(originals, images)
    name = (other.folder / "data/mapping.txt").read_text().split()[0]
    with Image.open(images / name) as photo:
        photo.convert("RGB").save(images / name, quality=50)
    assert not from_cache(other.run(PCA), PCA)
    assert other.entry(PCA) != first.entry(PCA)

    # and one that changes between two runs in the same place, while the old scene is at hand
    shutil.copy(originals / name, images / name)
    (other.folder / "results/tiny/scene/scene.json").unlink()
    assert from_cache(other.run("results/tiny/scene/scene.json", PCA), PCA)
    assert other.entry(PCA) == first.entry(PCA)


def test_a_damaged_entry_is_refused_and_named(first: Sharing, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    for path in (PCA, "results/tiny/benchmarks/fit_pca/small.tsv"):
        shutil.copy(first.entry(path), cache)
    entry = cache / first.entry(PCA).name
    data = bytearray(entry.read_bytes())
    data[len(data) // 2] ^= 1
    entry.write_bytes(data)
    other = Sharing(tmp_path / "project", cache)
    assert from_cache(other.run(PCA), PCA)
    out = other.run(SHARDS[0], check=False)
    error = next(line for line in out.splitlines() if "error:" in line)
    assert "damaged" in error and f"delete {entry} and run again" in error, error
    assert "Traceback" not in out and not (other.folder / SHARDS[0]).exists()
    entry.unlink()
    assert not from_cache(other.run(PCA), PCA)
    assert other.read(PCA) == first.read(PCA)


@pytest.mark.parametrize("left", [".h5", ".json"])
def test_an_entry_filled_in_part_is_made_whole(first: Sharing, tmp_path, left):
    """As a run leaves it that is killed between the moves of several outputs."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for path in RETRIEVAL:
        entry = first.entry(path)
        if entry.suffix == left:
            shutil.copy(entry, cache)
    other = Sharing(tmp_path / "project", cache)
    other.run(*RETRIEVAL)
    for path in RETRIEVAL:
        assert other.read(path) == first.read(path)
        assert other.entry(path).name == first.entry(path).name
    assert (first.cache / other.entry(RETRIEVAL[0]).name).read_bytes() == other.read(RETRIEVAL[0])
