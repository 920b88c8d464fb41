"""One process of a training job: ``torchrun --nnodes 2 --nproc-per-node 4 ... -m scrflow.training JOB``.

JOB is the train.json that the workflow leaves beside a head. Without torchrun the process trains alone.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from pydantic import ValidationError

from scrflow.core.errors import ScrflowError, exit_on_error
from scrflow.training.launch import TrainJob


def main(arguments: list[str]) -> int:
    """Exit status: 0 trained, 1 an error (printed in one line), 2 wrong usage."""
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    quiet = int(os.environ.get("RANK", "0")) > 0
    logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, format="%(message)s", stream=sys.stderr)
    path = Path(arguments[0])
    with exit_on_error():
        try:
            job = TrainJob.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise ScrflowError(f"{path}: not a training job ({str(error).splitlines()[0]})") from None
        job.train()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
