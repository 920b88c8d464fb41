"""A scene exported for hloc, and hloc's results scored, by the command line."""

from pathlib import Path

import h5py
import numpy as np
import pycolmap
import pytest
from tiny_project import Project


def lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()]


def test_export(finished: Project, tmp_path):
    command, out = ("export-hloc", "tiny", "--encoder", "small", "--out"), tmp_path / "given"
    done = finished.scrflow(*command, str(out), "--retrieval", "vlad", "--pairs", "3")
    assert done.returncode == 0, done.stderr
    mapping, queries = ([fields[0] for fields in lines(out / f"{name}.txt")] for name in ("mapping", "queries"))
    assert len(mapping) == 24 and len(queries) == 5
    names = set(mapping + queries)
    with h5py.File(out / "features.h5") as features, h5py.File(out / "global-feats.h5") as descriptors:
        for name in names:
            count = len(features[name]["keypoints"])
            assert count > 20 and features[name]["descriptors"].shape[1] == len(features[name]["scores"]) == count
            size = features[name]["image_size"][:]
            pixels = features[name]["keypoints"][:]
            assert (pixels > -0.5).all() and (pixels < size - 0.5).all()
            assert pixels.max(0)[0] > 0.6 * size[0]  # of the photo, not of the smaller image that was encoded
            assert np.linalg.norm(descriptors[name]["global_descriptor"][:]) == pytest.approx(1, abs=1e-4)
    model = pycolmap.Reconstruction(str(out / "sfm"))
    assert {model.image(i).name for i in model.reg_image_ids()} == set(mapping)
    covisible, similar = lines(out / "pairs-covisibility.txt"), lines(out / "pairs-retrieval.txt")
    assert all(len(pair) == 2 and set(pair) <= set(mapping) and pair[0] != pair[1] for pair in covisible)
    assert 24 < len(covisible) <= 72
    assert [q for q, _ in similar] == [q for q in queries for _ in range(3)]
    assert {m for _, m in similar} <= set(mapping)

    again = finished.scrflow(*command, str(out))
    assert again.returncode == 1 and again.stderr == f"error: {out}: exists already; name a new folder\n"
    unknown = finished.scrflow("export-hloc", "tiny", "--encoder", "smal", "--out", "other")
    assert unknown.returncode == 1 and "no 'smal' in encoders; choose one of small" in unknown.stderr


def test_results_are_scored(finished: Project, tmp_path):
    truth = (finished.folder / "results/tiny/scene/query_poses.txt").read_text().splitlines()
    (tmp_path / "results.txt").write_text("\n".join(truth[:-1]) + "\n")
    done = finished.scrflow("score-poses", "tiny", f"{tmp_path}/results.txt")
    assert done.returncode == 0, done.stderr
    share = 100 * (len(truth) - 1) / len(truth)
    assert done.stdout.splitlines()[0] == f"0.25 m 2°  {share:.1f} %"
    assert done.stdout.splitlines()[-1] == f"median 0 m, 0° of {len(truth)} queries"
