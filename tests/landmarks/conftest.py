"""A map of landmarks alone, of the painted wall."""

import plane_map
import pytest


@pytest.fixture(scope="session")
def wall_landmarks(tmp_path_factory: pytest.TempPathFactory) -> plane_map.PlaneMap:
    """Beside ``photos`` lie ``graph.npz`` and ``tracks.h5``: change nothing."""
    return plane_map.build_landmarks(tmp_path_factory.mktemp("landmarks"))
