"""Makes synthetic.py and training_cases.py importable, and writes the synthetic scene once."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> dict:
    """Artifacts of the synthetic scene that training reads."""
    import synthetic

    from scrflow.config import SampleDepthConfig, SampleDepthStage
    from scrflow.depths.matched import estimate_sample_depths

    folder = tmp_path_factory.mktemp("inputs")
    buffer, _, _ = synthetic.scene(0.3)
    shards = synthetic.write_shards(buffer, folder)
    graph = synthetic.write_graph(folder)
    depth = folder / "depth.h5"
    estimate_sample_depths(SampleDepthStage(depth=SampleDepthConfig(), seed=1), graph, shards, depth, 1)
    return {"shards": shards, "graph": graph, "encoding": synthetic.write_encoding(folder), "depth": depth}
