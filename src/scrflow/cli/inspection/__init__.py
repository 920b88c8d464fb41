"""What is in a file: ``inspect_file`` gives a printable summary of any artifact, and of files made by others.

Nothing in a file is run: HDF5 and NumPy archives are read without pickles, and a torch checkpoint, which is a pickle,
is named but not opened.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable
from pathlib import Path

from rich.console import RenderableType

from scrflow.cli.inspection.checkpoint import show_checkpoint
from scrflow.cli.inspection.folder import show_folder
from scrflow.cli.inspection.frame import show_table
from scrflow.cli.inspection.hdf5 import show_h5
from scrflow.cli.inspection.jsonfile import show_json, show_json_lines
from scrflow.cli.inspection.layout import damaged
from scrflow.cli.inspection.npz import show_npz
from scrflow.cli.inspection.picture import show_picture
from scrflow.cli.inspection.tensors import show_safetensors
from scrflow.cli.inspection.text import show_text
from scrflow.core.errors import ScrflowError


def inspect_file(path: Path) -> RenderableType:
    """A rich renderable that says what ``path`` is: kind, stamp, arrays with shape, dtype and range, names, size.

    Takes npz, h5, safetensors, json, jsonl, csv, tsv, txt (poses, query lists, name lists), pictures, torch checkpoints
    (named only), COLMAP model folders, scene folders and folders of artifacts. ScrflowError in one line for a file
    that is missing, damaged, or of no known kind.
    """
    path = Path(path)
    if not path.exists():
        raise ScrflowError(f"{path}: no such file or folder")
    if path.is_dir():
        return show_folder(path)
    if path.suffix == ".bin" and path.stem in ("cameras", "images", "points3D", "rigs", "frames"):
        return show_folder(path.parent)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        known = " ".join(sorted(_READERS))
        raise ScrflowError(f"{path}: no known kind of file; there are {known}, COLMAP model folders and scene folders")
    if path.stat().st_size == 0:
        raise ScrflowError(f"{path}: empty file; delete it and run again")
    try:
        return reader(path)
    except ScrflowError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, csv.Error) as error:
        raise damaged(path, error) from None
    except Exception as error:
        # SafetensorError and zlib.error derive from Exception alone
        if type(error).__name__ not in ("SafetensorError", "error"):
            raise
        raise damaged(path, error) from None


_READERS: dict[str, Callable[[Path], RenderableType]] = {
    ".npz": show_npz,
    ".h5": show_h5,
    ".hdf5": show_h5,
    ".safetensors": show_safetensors,
    ".pt": show_checkpoint,
    ".pth": show_checkpoint,
    ".ckpt": show_checkpoint,
    ".json": show_json,
    ".jsonl": show_json_lines,
    ".csv": lambda path: show_table(path, ","),
    ".tsv": lambda path: show_table(path, "\t"),
    ".txt": show_text,
    ".png": show_picture,
    ".jpg": show_picture,
    ".jpeg": show_picture,
}
