"""Lock files: every pin with the SHA-256 of the files that the package index publishes for it, on all platforms.

    .venv-tools/bin/python envs/lock.py make           writes them all (make lock)
    python envs/lock.py constraints                    versions of what torch brings, for pip
    python envs/lock.py check .venv/torch.json         holds what pip installed with torch against the locks

pip takes requirements.lock with --require-hashes, and then nothing that is not in it. torch is not in it: its builds
are many, and pip is to choose the one for the machine (see Makefile). What came with it is checked afterwards, before
any of it is imported, against envs/torch.lock. Standard library alone, as it runs before anything is installed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "3.11"  # the oldest that is supported
PINS = {  # lock file -> file of the pins
    "requirements.lock": "requirements.txt",
    "requirements-dev.lock": "requirements-dev.txt",
    "requirements-cluster.lock": "requirements-cluster.txt",
    "requirements-storage.lock": "requirements-storage.txt",
    "envs/setuptools.lock": "requirements.txt",
    "envs/torch.lock": "requirements.txt",
    "envs/serve.lock": "requirements.txt",  # without what torch.lock has
    "envs/node2vec.lock": "envs/node2vec.txt",
    "envs/tools.lock": "envs/tools.txt",
}
_PIN = re.compile(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)")
_SHA256 = re.compile(r"--hash=sha256:([0-9a-f]{64})\b")


def normal(name: str) -> str:
    """A package's name as the index has it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(path: Path) -> dict[str, str]:
    """Version of every package that a file pins, of a lock file too."""
    found = (_PIN.match(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {normal(m[1]): m[2] for m in found if m}


def read_hashes(path: Path) -> dict[tuple[str, str], set[str]]:
    """(name, version) -> SHA-256 of its files, of a lock file."""
    out: dict[tuple[str, str], set[str]] = {}
    key = None
    for line in path.read_text(encoding="utf-8").splitlines():
        pin = _PIN.match(line)
        if pin:
            key = normal(pin[1]), pin[2]
        for digest in _SHA256.findall(line):
            out.setdefault(key, set()).add(digest)
    return out


def wanted(lock: str) -> list[str]:
    """The requirements that a lock file is made of."""
    pins = read_pins(ROOT / PINS[lock])
    if lock == "envs/serve.lock":
        declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        project, without = declared["project"], declared["tool"]["scrflow"]["workflow-only"]
        needed = [need for need in project["dependencies"] if re.split("[<>=]", need)[0] not in without]
        return needed + project["optional-dependencies"]["serve"]
    alone = {"envs/setuptools.lock": "setuptools", "envs/torch.lock": "torch"}.get(lock)
    if alone is not None:
        return [f"{alone}=={pins[alone]}"]
    return [f"{name}=={version}" for name, version in sorted(pins.items()) if name != "torch"]


def make(lock: str) -> None:
    """Write one lock file. uv asks the index for the files of each version; of torch alone also what it brings, and of
    the image that serves all that it needs."""
    target = ROOT / lock
    command = [Path(sys.executable).with_name("uv"), "pip", "compile", "-", "--universal", "--python-version", PYTHON,
               "--generate-hashes", "--no-header", "--no-annotate", "--quiet", "--output-file", target]  # fmt: skip
    if lock == "envs/serve.lock":
        brought = [*read_pins(ROOT / "envs/torch.lock"), "colorama"]  # torch comes apart; colorama is for Windows
        command += ["--constraints", ROOT / "requirements.txt", *(f"--no-emit-package={name}" for name in brought)]
    elif lock == "envs/torch.lock":
        others = [name for name in read_pins(ROOT / "requirements.txt") if name != "torch"]
        command += ["--constraints", ROOT / "requirements.txt", *(f"--no-emit-package={name}" for name in others)]
    else:
        command += ["--no-deps"]
    subprocess.run([str(part) for part in command], input="\n".join(wanted(lock)), text=True, check=True, cwd=ROOT)
    text = target.read_text(encoding="utf-8")
    target.write_text(f"# Made by 'make lock' from {PINS[lock]}; not to be edited.\n{text}", encoding="utf-8")


def check(report: Path) -> Iterator[str]:
    """What in pip's report of an installation is not as published; a line each.

    A build of torch with a local version (2.13.0+cpu) is of another index than PyPI: there is no digest to hold it
    against, and who chose it answers for it.
    """
    known: dict[tuple[str, str], set[str]] = {}
    for lock in ("requirements.lock", "envs/torch.lock"):
        known |= read_hashes(ROOT / lock)
    for item in json.loads(report.read_text(encoding="utf-8"))["install"]:
        name, version = normal(item["metadata"]["name"]), item["metadata"]["version"]
        digest = item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256", "unknown")
        if name == "torch" and "+" in version:
            print(f"note: torch {version} (SHA-256 {digest}) is a build of another index; PyPI has no digest of it")
        elif digest not in known.get((name, version), ()):
            yield f"{name} {version}: SHA-256 {digest} is in no lock file"


def constraints() -> str:
    """envs/torch.lock without its digests: with them pip would take nothing but PyPI's build of torch."""
    lines = (ROOT / "envs/torch.lock").read_text(encoding="utf-8").splitlines()
    return "".join(line.rstrip("\\ ") + "\n" for line in lines if _PIN.match(line))


def main(arguments: list[str]) -> int:
    if arguments == ["make"]:
        for lock in PINS:
            make(lock)
        return 0
    if arguments == ["constraints"]:
        print(constraints(), end="")
        return 0
    if len(arguments) == 2 and arguments[0] == "check":
        faults = list(check(Path(arguments[1])))
        for fault in faults:
            print(f"error: {fault}; remove the environment (.venv) and look where pip has it from", file=sys.stderr)
        return 1 if faults else 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
