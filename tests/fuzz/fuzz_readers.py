"""Fuzzes the readers of files that come from others, with atheris (libFuzzer for Python).

    .venv-fuzz/bin/python tests/fuzz/fuzz_readers.py map --runs 20000

A target is a reader of tests/badinput/untrusted_readers.py; the corpus begins with small files that are right. What
scrflow itself wrote is sealed anew after each change, or nothing behind the seal would ever be reached. A finding is
any exception but ScrflowError, a message of more than one line, 2 GB of memory, 5 s, or a crash of a C library. Each
finding becomes a test in tests/badinput.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests/helpers")]

import atheris  # noqa: E402

with atheris.instrument_imports(include=["scrflow"]):
    from sound_files import write_all
    from untrusted_readers import READERS, settle

    from scrflow.core.errors import ScrflowError
    from scrflow.storage.checksum import _fault, write_checksum

# target -> (reader, the sound file in its folder that is changed; empty where the reader takes a file)
TARGETS = {
    **{name: (name, "") for name in ("map", "baseline map", "graph", "hloc features", "hloc matches")},
    **{name: (name, "") for name in ("hloc descriptors", "archive", "nvm", "poses", "query list", "pairs", "weights")},
    **{name: (name, "") for name in ("journal", "table", "download table", "cameras of photos")},
    "tar": ("archive", ""),
    "inspect h5": ("inspect", ""),
    **{f"colmap {name}": ("colmap", f"{name}.bin") for name in ("cameras", "images", "points3D", "rigs", "frames")},
    "colmap text images": ("colmap", "images.txt"),
    "colmap text cameras": ("colmap", "cameras.txt"),
    "nerfstudio": ("nerfstudio", "transforms.json"),
    "kapture sensors": ("kapture", "sensors/sensors.txt"),
    "kapture poses": ("kapture", "sensors/trajectories.txt"),
    "nvm scene": ("nvm scene", "model.nvm"),
    "pose list": ("pose list", "poses.txt"),
    "config": ("config", "methods/quick.yaml"),
    "fetched": ("fetched", ".scrflow/a.zip.sha256"),
    "papers": ("papers", "one.yaml"),
}
_OTHER_SEED = {"tar": "a.tar.gz", "inspect h5": "features.h5"}
_SEALED = (".h5", ".npz", ".safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=["all", *TARGETS])
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / ".fuzz", help="inputs that found something are kept here")
    options = parser.parse_args()
    if options.target == "all":
        sys.exit(_all(options))
    _fuzz(options)


def _all(options: argparse.Namespace) -> int:
    """Every target in a process of its own; 1 where any found something."""
    found = 0
    for target in TARGETS:
        command = [sys.executable, __file__, target, "--runs", str(options.runs), "--seed", str(options.seed)]
        done = subprocess.run([*command, "--out", str(options.out)], capture_output=True, text=True, check=False)
        lines = (done.stdout + done.stderr).splitlines()
        told = [line for line in lines if line.startswith(f"{target}: ")]
        print(told[-1] if told else "\n".join([f"{target}: FOUND something", *lines[-40:]]), flush=True)
        found |= not told
    return found


def _fuzz(options: argparse.Namespace) -> None:
    """One target, in this process: libFuzzer ends it."""
    options.out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="scrflow-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    reader, name = TARGETS[options.target]
    path, changed = _prepared(folder, options.target, reader, name)
    corpus = folder / "corpus"
    corpus.mkdir()
    (corpus / "sound").write_bytes(changed.read_bytes())
    began, done = time.monotonic(), 0

    def one(data: bytes) -> None:
        nonlocal done
        done += 1
        changed.write_bytes(data)
        if changed.suffix in _SEALED:
            with contextlib.suppress(ValueError):  # no place left for the seal
                write_checksum(changed)
        _fault.cache_clear()  # it goes by the time of the last change, and this loop is faster than clocks of files
        try:
            READERS[reader](path)
        except ScrflowError as error:
            text = str(error)
            if "\n" in text or not text.isprintable():
                raise RuntimeError(f"not one printable line: {text!r}") from None
        if done == options.runs:
            rate = done / (time.monotonic() - began)
            print(f"{options.target}: {done} runs, {rate:.0f} a second, nothing found", flush=True)
            shutil.rmtree(folder)

    settle()
    READERS[reader](path)  # imports take longer than a reader may
    prefix = options.out / f"{options.target.replace(' ', '-')}-"
    flags = [f"-runs={options.runs}", f"-seed={options.seed}", "-timeout=5", "-rss_limit_mb=2048", "-max_len=65536"]
    flags += [f"-artifact_prefix={prefix}", "-verbosity=0", "-print_final_stats=0", str(corpus)]
    atheris.Setup([sys.argv[0], *flags], one)
    atheris.Fuzz()


def _prepared(folder: Path, target: str, reader: str, name: str) -> tuple[Path, Path]:
    """(what the reader takes, the file in it that is changed)."""
    sound = folder / "sound"
    sound.mkdir()
    path = write_all(sound)[reader]
    if target in _OTHER_SEED:
        path = sound / _OTHER_SEED[target]
    if target.startswith("colmap text"):
        path = sound / "colmap-text"
    return path, path / name if name else path


if __name__ == "__main__":
    main()
