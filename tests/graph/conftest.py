"""Makes the helpers beside the tests importable, and their fixtures known."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from graph_helpers import ring_views  # noqa: F401
