"""A dataset is broken in one place; the scene stage must say so in one line and keep what was there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from scrflow.config import SceneStage
from scrflow.core.errors import ScrflowError
from scrflow.scene.build import build_scene

GONE = None  # in place of a pattern: the file or folder is removed


def change(path: Path, pattern: str | None, new: str) -> None:
    """Replace the first match of a regular expression in a text file."""
    if pattern is GONE:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return
    text = path.read_text()
    changed = re.sub(pattern, new, text, count=1, flags=re.M)
    assert changed != text, (path, pattern)
    path.write_text(changed)


def check_refused(config: SceneStage, root: Path, out: Path, message: str) -> None:
    out.mkdir()
    (out / "scene.json").write_text("an earlier one")
    with pytest.raises(ScrflowError, match=message) as error:
        build_scene(config, root, out)
    assert "\n" not in str(error.value)
    assert [(p.name, p.read_text()) for p in out.iterdir()] == [("scene.json", "an earlier one")]
