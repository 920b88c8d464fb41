"""``python -m scrflow.training JOB``: one process of a training job (see job.py)."""

import sys

from scrflow.training.job import main

sys.exit(main(sys.argv[1:]))
