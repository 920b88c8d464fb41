"""The frame of a job, and the lock, without Snakemake."""

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from tiny_project import REPO

from scrflow.core.errors import ScrflowError
from scrflow.pipeline.job import hold_workflow_lock, source_files
from scrflow.pipeline.project import Project as Config

PRELUDE = """
import os, sys
from types import SimpleNamespace
snakemake = SimpleNamespace(
    rule="train_head",
    wildcards={"scene": "tiny"},
    threads=1,
    log=["job.log"],
    params=SimpleNamespace(),
    output=SimpleNamespace(),
)
from scrflow.pipeline.job import job_frame
"""


def script(folder: Path, body: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SCRFLOW_", "OMP_", "MKL_"))}
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(body)],
        cwd=folder,
        env={**clean, "PYTHONPATH": str(REPO / "src"), **env},
        text=True,
        capture_output=True,
        timeout=300,
    )


def test_user_error_is_one_line_and_a_bug_keeps_its_traceback(tmp_path):
    raised = "from scrflow.core.errors import ScrflowError\nwith job_frame(snakemake): raise "
    done = script(tmp_path, f"{raised} ScrflowError('a.jpg: image is missing; put it there')")
    assert done.returncode == 1
    assert done.stderr == "[train_head tiny] error: a.jpg: image is missing; put it there\n"
    assert "image is missing" in (tmp_path / "job.log").read_text()
    done = script(tmp_path, f"{raised} ZeroDivisionError")
    assert done.returncode == 1
    for text in (done.stderr, (tmp_path / "job.log").read_text()):
        assert "Traceback" in text and "ZeroDivisionError" in text


def test_log_ends_with_cpu_time_and_memory(tmp_path):
    done = script(
        tmp_path,
        """
        import time
        with job_frame(snakemake):
            held = bytes(range(256)) * (1 << 18)
            began = time.process_time()
            while time.process_time() < began + 0.3:
                pass
        """,
    )
    assert done.returncode == 0
    assert not done.stderr  # for the log alone
    found = re.search(r"CPU time ([\d.]+) s, at most (\d+) MB\n$", (tmp_path / "job.log").read_text())
    # 0.3 s and 64 MB at least; start-up took 0.5 s and 60 MB
    assert float(found[1]) > 0.3 and int(found[2]) > 64


def test_threads_are_set_before_numpy_and_torch(tmp_path):
    done = script(
        tmp_path,
        """
        with job_frame(snakemake):
            import faiss, torch
            found = torch.get_num_threads(), faiss.omp_get_max_threads(), os.environ["OMP_WAIT_POLICY"]
            print(*found, file=sys.stderr)
        """,
    )
    assert done.stderr.splitlines()[-1] == "1 1 PASSIVE"
    late = script(tmp_path, "import numpy\nwith job_frame(snakemake): pass")
    assert "numpy imported before" in late.stderr


def test_the_terminal_shows_messages_and_the_log_has_all(tmp_path):
    done = script(
        tmp_path,
        """
        import logging
        with job_frame(snakemake):
            logging.getLogger("scrflow").info("a message")
            os.write(2, b"from a library in C\\n")
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "[train_head tiny] a message\n"
    assert "from a library in C" in (tmp_path / "job.log").read_text()


def test_job_ends_with_its_workflow(tmp_path):
    """Even when the workflow could not end it, being killed itself."""
    parent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    child = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + "import time\nwith job_frame(snakemake):\n    time.sleep(600)"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(REPO / "src"),
            "SCRFLOW_WORKFLOW": f"{socket.gethostname()}:{parent.pid}",
        },
    )
    try:
        time.sleep(1)
        assert child.poll() is None
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert child.wait(timeout=300) == 1
    finally:
        parent.kill()
        child.kill()


def test_lock_is_exclusive_and_never_stale(tmp_path):
    path = tmp_path / "lock"
    code = (
        "import subprocess, sys, time; from pathlib import Path; from scrflow.pipeline.job import hold_workflow_lock\n"
        "hold_workflow_lock(Path(sys.argv[1])); print('held', flush=True)\n"
        "subprocess.run(['sh', '-c', 'echo started; exec sleep 600'])"  # a child: it must not keep the lock
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        env={**os.environ, "PYTHONPATH": str(REPO / "src")},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ScrflowError, match=f"another Snakemake is running here .*:{holder.pid}"):
            hold_workflow_lock(path)
        assert holder.stdout.readline() == "started\n"  # what is not yet the child's program still has it
    finally:
        holder.kill()
        holder.wait()
    try:
        hold_workflow_lock(path)
    finally:
        os.killpg(holder.pid, signal.SIGKILL)  # the child


def test_source_files_are_those_that_make_the_scene(project):
    config = Config(project.folder / "config")
    scene = config.scene("tiny")
    found = {Path(p).name for p in source_files(scene, project.folder / "data")}
    assert {"mapping.txt", "queries_day.txt", "queries_night.txt"} < found
    assert any(name.startswith("cameras.") for name in found)
    assert source_files(scene, project.folder / "nowhere") == []
