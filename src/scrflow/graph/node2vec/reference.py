"""The named package node2vec (0.5.0) as an engine: it holds numpy below 2, so it runs in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import scipy.sparse

from scrflow.config import Node2VecConfig
from scrflow.core.errors import ScrflowError

PYTHON_VARIABLE = "SCRFLOW_NODE2VEC_PYTHON"
_DEFAULT_PYTHON = ".venv-node2vec/bin/python"
_WORKER = Path(__file__).with_name("reference_worker.py")


def reference_python() -> Path:
    """The interpreter of the package's environment; ScrflowError that tells how to make it when there is none."""
    python = Path(os.environ.get(PYTHON_VARIABLE, _DEFAULT_PYTHON))
    if not python.is_file():
        raise ScrflowError(
            f"{python}: no environment for engine node2vec; make it with 'make node2vec-env' (envs/node2vec.txt), or "
            f"name another interpreter that has the package in {PYTHON_VARIABLE}"
        )
    return python


def reference_vectors(config: Node2VecConfig, csr: scipy.sparse.csr_array, seed: int) -> np.ndarray:
    """Vectors [N, dim] float32 of the graph by the package; one worker and a fixed hash seed, so they repeat."""
    python = reference_python()
    with tempfile.TemporaryDirectory(prefix="scrflow-node2vec-") as folder:
        graph, out = Path(folder, "graph.npz"), Path(folder, "vectors.npy")
        csr = scipy.sparse.csr_array(csr)
        np.savez(graph, data=csr.data, indices=csr.indices, indptr=csr.indptr)
        keys = ("dim", "p", "q", "walks", "length", "context", "negatives", "epochs")
        settings = {k: getattr(config, k) for k in keys}
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = subprocess.run(
            [str(python), str(_WORKER), str(graph), str(out), json.dumps({**settings, "seed": seed})],
            env={**environment, **threads, "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0 or not out.is_file():
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise ScrflowError(
                f"engine node2vec ({python}) failed: {lines[-1]}; 'make node2vec-env' makes its environment"
            )
        return np.load(out)
