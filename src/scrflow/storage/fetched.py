"""What was fetched is what is there: the SHA-256 of every downloaded or unpacked file, against which a scene is read.

Lists in ``.scrflow/`` of the dataset's folder, one a download table or archive, in the form of ``sha256sum`` (whose
``--check`` reads them) and one more line with their number. A folder without lists was not downloaded by us.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from scrflow.core.errors import ScrflowError
from scrflow.storage.artifact import sha256_file, write_text

STATE = ".scrflow"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def list_path(root: Path, name: str) -> Path:
    """The list of an archive's or a table's files."""
    return Path(root) / STATE / f"{name}.sha256"


def write_list(root: Path, name: str, files: Mapping[str, str]) -> None:
    """Remember what came with ``name``: path (relative to root) -> SHA-256."""
    lines = [f"{digest}  {path}" for path, digest in sorted(files.items())]
    write_text(list_path(root, name), "\n".join([*lines, f"# {len(lines)} files"]) + "\n")


def check_fetched(root: Path, paths: Iterable[Path]) -> None:
    """ScrflowError where one of the files was fetched and is gone, or is another by now. Others are passed over."""
    root = Path(root)
    known: dict[Path, dict[str, Path]] = {}  # a file may have come with two archives
    for listed in sorted((root / STATE).glob("*.sha256")):
        for path, digest in _read_list(listed, root):
            known.setdefault(root / path, {})[digest] = listed
    for path in paths if known else ():
        expected = known.get(Path(path))
        if expected is None:
            continue
        listed = next(iter(expected.values()))
        if not path.is_file():
            raise ScrflowError(f"{path}: was fetched, and is gone; {_mend(listed, root)}")
        if sha256_file(path) not in expected:
            raise ScrflowError(f"{path}: is not what was fetched, its SHA-256 is another; {_mend(listed, root)}")


def _read_list(listed: Path, root: Path) -> list[tuple[str, str]]:
    """(path, SHA-256) of each line."""
    try:
        *lines, last = listed.read_text(encoding="utf-8").splitlines()
    except (UnicodeDecodeError, ValueError):
        lines, last = [], ""
    found = [_LINE.fullmatch(line) for line in lines]
    if last != f"# {len(lines)} files" or not all(found):
        raise ScrflowError(f"{listed}: damaged list of what was fetched; {_mend(listed, root)}")
    return [(match[2], match[1]) for match in found if match]


def _mend(listed: Path, root: Path) -> str:
    return f"delete {listed} and {root.with_name(root.name + '.downloaded')} and run again, which fetches it anew"
