"""benchmarks/pipeline.py on small folders of results."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "pipeline.py"
HEAD = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def job(scene: Path, name: str, wall: str, rss: str, cpu: str, log: str | None = None) -> None:
    path = scene / "benchmarks" / f"{name}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{HEAD}{wall}\t0:00:01\t{rss}\t0\t0\t0\t0\t0\t0\t{cpu}\n")
    if log is not None:
        path = scene / "logs" / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(log)


def table(*arguments: str) -> tuple[int, list[list[str]], str]:
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)
    rows = [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in done.stdout.splitlines()]
    return done.returncode, rows, done.stderr


def test_costs_of_two_runs(tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    for scene in (before, after):
        (scene / "m").mkdir(parents=True)
        (scene / "other").mkdir()
    job(before, "train_head/m", "100", "500", "120")
    job(before, "fit_pca/xfeat", "10.5", "400", "12")
    job(before, "build_graph", "0.4", "NA", "NA")
    job(before, "train_head/other", "999", "1", "1")
    job(after, "train_head/m", "40", "600", "15", "2026 DEBUG CPU time 60.00 s, at most 512 MB\n")
    job(after, "fit_pca/xfeat", "5", "400", "5", "2026 DEBUG CPU time 6.00 s, at most 410 MB\n")
    code, rows, _ = table(str(before), str(after), "--method", "m")
    assert code == 0
    found = {row[0]: row[1:] for row in rows}
    assert list(found)[2:] == ["build_graph", "fit_pca xfeat", "train_head m", "all but training", "sum"]
    assert found["build_graph"] == ["0.4", "-", "-", "-", "-", "-", "-", "-"]
    assert found["fit_pca xfeat"] == ["10.5", "≥ 12.0", "400", "5.0", "6.0", "410", "2.10", "2.00"]
    assert found["train_head m"] == ["100.0", "≥ 120.0", "500", "40.0", "60.0", "512", "2.50", "2.00"]
    # a job without CPU time leaves the sum without it
    assert found["sum"] == ["110.9", "-", "500", "45.0", "66.0", "512", "2.46", "-"]


def test_folder_without_benchmarks(tmp_path):
    code, rows, message = table(str(tmp_path))
    assert code == 1
    assert not rows
    assert message.strip() == f"{tmp_path}: no benchmarks/*.tsv; give a folder results/SCENE of a run"
