"""What all tests of bad files share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from confined import Confined


@pytest.fixture(scope="session")
def confined() -> Iterator[Confined]:
    """Readers, each call in a process of its own."""
    found = Confined()
    yield found
    found.close()


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small file that is right, by reader."""
    from sound_files import write_all

    return write_all(tmp_path_factory.mktemp("sound"))
