"""Prints the rows of docs/bad-input.md: what is told of every bad file here, as it is told.

PYTHONPATH=src .venv/bin/python tests/badinput/table.py > rows.md
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from bad import message
from confined import Confined
from sound_files import write_all

FILES = ("archives", "hdf5", "colmap", "tensors", "texts", "config")


def main() -> None:
    confined = Confined()
    with tempfile.TemporaryDirectory() as top:
        root = Path(top).resolve() / "sound"
        root.mkdir()
        sound = write_all(root)
        for name in FILES:
            test = f"test_bad_{name}"
            for case in importlib.import_module(test).CASES:
                with tempfile.TemporaryDirectory(dir=top) as folder:
                    text = message(case, confined, sound, Path(folder))
                    text = (
                        text.replace(f"{Path(folder).resolve()}/", "")
                        .replace(str(Path(folder).resolve()), "FOLDER")
                        .replace("|", "\\|")
                        .replace("`", "'")
                    )
                text = text if len(text) <= 260 else f"{text[:190]} ... {text[-60:]}"
                print(f"| {case.kind} | `{text}` | tests/badinput/{test}.py |", flush=True)
    confined.close()


if __name__ == "__main__":
    main()
