"""A folder of results by hand: files that hold nothing but their stamps, and benchmark files."""

from pathlib import Path

import torch

from scrflow.storage.artifact import Stamp, create_h5, read_stamp, write_json, write_npz, write_safetensors


class Results:
    """Files with stamps and little else, and benchmark files of 1, 2, 4, 8 ... seconds: a sum tells its parts."""

    def __init__(self, root: Path):
        self.root, self.seconds = root, {}

    def artifact(
        self, path: str, kind: str, config: dict | None = None, code: str = "c", weight: float = 0.0, **inputs: str
    ) -> str:
        """``inputs``: paths of artifacts, or digests; ``weight``: what is in a file of tensors."""
        given = {k: read_stamp(self.root / v).digest if (self.root / v).exists() else v for k, v in inputs.items()}
        stamp, file = Stamp(kind, config or {}, code, given), self.root / path
        if file.suffix == ".json":
            write_json(file, {}, stamp)
        elif file.suffix == ".npz":
            write_npz(file, {}, stamp)
        elif file.suffix == ".h5":
            with create_h5(file, stamp):
                pass
        else:
            write_safetensors(file, {"w": torch.full((1000,), weight)}, stamp)
        return path

    def job(self, name: str, scene: str = "s", log: str | None = None, cpu: str = "NA") -> None:
        seconds = self.seconds[f"{scene}/{name}"] = 2 ** len(self.seconds)
        path = self.root / scene / "benchmarks" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\th:m:s\tmax_rss\tcpu_time\n{seconds}\t0:00:01\t100\t{cpu}\n")
        if log is not None:
            file = self.root / scene / "logs" / f"{name}.log"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(log)

    def of(self, *names: str) -> int:
        return sum(self.seconds[name if name.startswith("part") else f"s/{name}"] for name in names)
