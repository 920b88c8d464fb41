"""Fuzzes the readers of files that come from others, with atheris (libFuzzer for Python).

    .venv-fuzz/bin/python tests/fuzz/fuzz_readers.py map --runs 20000

A target is a reader of tests/helpers/untrusted_readers.py; the corpus begins with its sound file. Artifacts get a new
checksum after each change, or nothing behind it would be reached. A finding is any exception but ScrflowError, a
message of more than one line, 2 GB of memory, 5 s, or a crash of a C library. Each becomes a test in tests/badinput.
"""

import argparse
import contextlib
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests/helpers")]

import atheris  # noqa: E402

with atheris.instrument_imports(include=["scrflow"]):
    import pycolmap
    from sound_files import write_all
    from untrusted_readers import READERS, TEXTS

    from scrflow.core.errors import ScrflowError
    from scrflow.storage.checksum import _fault, write_checksum

# (reader, the file in its folder that is changed; empty if the reader takes a file)
FILES = (
    *((name, "") for name in ("map", "baseline map", "graph", "hloc features", "hloc matches", "hloc descriptors")),
    *((name, "") for name in ("archive", "weights", "inspect")),
    *(("colmap", f"{name}.bin") for name in ("cameras", "images", "points3D", "rigs", "frames")),
    *(("colmap text", "lists/test.txt"), ("fetched", ".scrflow/a.zip.sha256"), ("papers", "one.yaml")),
    *(("ros bag", name) for name in ("ros bag.mcap", "metadata.yaml")),
)
TARGETS = {" ".join(filter(None, target)): target for target in (*FILES, *TEXTS)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=["all", *TARGETS])
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / ".fuzz", help="inputs that found something are kept here")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.target != "all":
        fuzz(options, options.out / "work" / options.target)
    found = []
    for target in TARGETS:  # each in a process of its own: libFuzzer ends it
        command = [sys.executable, __file__, target, "--runs", str(options.runs), "--seed", str(options.seed)]
        done = subprocess.run([*command, "--out", str(options.out)], capture_output=True, text=True, check=False)
        print(f"{target}: {'nothing found' if done.returncode == 0 else 'FOUND something'}", flush=True)
        if done.returncode:
            found.append(target)
            print((done.stdout + done.stderr)[-4000:], flush=True)
    sys.exit(bool(found))


def fuzz(options: argparse.Namespace, folder: Path) -> None:
    """One target, in this process."""
    reader, name = TARGETS[options.target]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path = write_all(folder)[reader]
    changed = path / name if name else path
    (folder / "corpus").mkdir()
    (folder / "corpus/sound").write_bytes(changed.read_bytes())

    def one(data: bytes) -> None:
        changed.write_bytes(data)
        if changed.suffix in (".h5", ".npz", ".safetensors"):
            with contextlib.suppress(ValueError):  # no place left for the checksum
                write_checksum(changed)
        _fault.cache_clear()  # it goes by the time of the last change, and this loop is faster than clocks of files
        try:
            READERS[reader](path)
        except ScrflowError as error:
            if "\n" in str(error) or not str(error).isprintable():
                raise RuntimeError(f"not one printable line: {str(error)!r}") from None

    logging.disable(logging.WARNING)
    pycolmap.logging.minloglevel = 4
    READERS[reader](path)  # imports take longer than a reader may
    prefix = options.out / f"{re.sub('[ /]', '-', options.target)}-"
    flags = [f"-runs={options.runs}", f"-seed={options.seed}", "-timeout=5", "-rss_limit_mb=2048", "-max_len=65536"]
    atheris.Setup([sys.argv[0], *flags, f"-artifact_prefix={prefix}", "-verbosity=0", str(folder / "corpus")], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
