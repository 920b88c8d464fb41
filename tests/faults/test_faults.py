"""A few faults late in the chain; ``make test-faults`` injects all of them, at every stage (docs/faults.md)."""

import os
from random import Random

import pytest
from chains import PLAIN
from fault_kinds import KINDS
from fault_lab import Lab

pytestmark = pytest.mark.long

# (kind, stage, seed): what ends the work, what stops it, what damages it, and what refuses to write
SAMPLE = [
    ("kill-one", "localize_queries", 7),
    ("truncate", "localize_queries", 7),
    ("full-disk", "localize_queries", 7),
    ("full-disk", "choose_poses", 1),  # not a page is left, for the log neither
    ("no-permission", "evaluate_poses", 2),  # to write: whether a product is read again is a matter of chance
]


@pytest.fixture(scope="module")
def lab(finished, tmp_path_factory) -> Lab:
    return Lab(tmp_path_factory.mktemp("faults"), PLAIN, finished)


@pytest.mark.parametrize(("kind", "stage", "seed"), SAMPLE)
def test_it_is_survived(lab, kind, stage, seed):
    if kind == "full-disk" and os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    outcome = KINDS[kind](lab, stage, Random(seed))
    assert outcome.failure is None, f"{outcome.kind}, {outcome.where}: {outcome.failure}"
    # of a fault that strikes an input the user is told; a signal leaves work to be gone on with
    if kind in ("full-disk", "no-permission"):
        assert outcome.result == "told" and outcome.line
