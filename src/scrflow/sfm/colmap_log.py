"""What COLMAP says of its work."""

from __future__ import annotations

import pycolmap

_WARNING = 1


def quiet_pycolmap() -> None:
    """Warnings and errors of COLMAP only; progress is told here."""
    pycolmap.logging.minloglevel = max(int(pycolmap.logging.minloglevel), _WARNING)
