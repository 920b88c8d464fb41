"""Inject faults into real runs of a tiny scene and count what was survived.

    python tests/faults/run.py --seed 1 --trials 3                  every kind, three times (kills: at every stage)
    python tests/faults/run.py --kinds flip full-disk --trials 20
    python tests/faults/run.py --chains bare --kinds kill-one --stages reconstruct_scene --trials 10

Repeatable by the seed, as far as the machine's timing goes. Prints a Markdown table; exit status 1 where any fault was
not survived. Kinds that need root (a full disk) are left out for other users, and told.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parent))

from chains import PHOTOS, POSED
from fault_kinds import EACH_STAGE, KINDS, NEEDS_A_PRODUCT, NEEDS_ROOT
from fault_lab import Lab, Outcome

CHAINS = {chain.scene: chain for chain in (POSED, PHOTOS)}


def stages_of(kind: str, lab: Lab) -> list[str]:
    """Where the kind can strike."""
    first, *_ = lab.stages.order
    struck = lab.chain.struck or lab.stages.order
    return [stage for stage in struck if stage != first or kind not in NEEDS_A_PRODUCT]


def plan(kinds: list[str], lab: Lab, trials: int, seed: int) -> list[tuple[str, str, int]]:
    """(kind, stage, seed of the trial): ``trials`` of a kind, or of each stage for kinds that strike at every one."""
    found = []
    for kind in kinds:
        rng = Random(f"{seed} {lab.chain.scene} {kind}")
        stages = stages_of(kind, lab)
        chosen = stages * trials if kind in EACH_STAGE else [rng.choice(stages) for _ in range(trials)]
        found += [(kind, stage, rng.randrange(1 << 30)) for stage in chosen]
    return found


def table(outcomes: list[Outcome]) -> str:
    """Kind, tried, survived, how."""
    lines = ["| fault | tried | survived | unharmed | goes on with the same command | told in a line, and mended |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for kind in [*dict.fromkeys(o.kind for o in outcomes), "all"]:
        mine = [o for o in outcomes if kind in (o.kind, "all")]
        how = Counter(o.result for o in mine)
        survived = sum(o.failure is None for o in mine)
        lines.append(f"| {kind} | {len(mine)} | {survived} | {how['unharmed']} | {how['goes on']} | {how['told']} |")
    return "\n".join(lines)


def inject(lab: Lab, steps: list[tuple[str, str, int]]) -> list[Outcome]:
    """Outcomes of the trials; each is printed as it ends."""
    outcomes = []
    for number, (kind, stage, seed) in enumerate(steps, 1):
        outcome = KINDS[kind](lab, stage, Random(seed))
        outcomes.append(outcome)
        said = outcome.result or f"FAILED: {outcome.failure}"
        print(
            f"{number}/{len(steps)} {outcome.kind}, {outcome.where} (seed {seed}): {said}  {outcome.line[:200]}",
            file=sys.stderr,
            flush=True,
        )
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--chains", nargs="+", choices=sorted(CHAINS), default=list(CHAINS), help="by their scenes")
    parser.add_argument("--kinds", nargs="+", choices=sorted(KINDS), default=list(KINDS))
    parser.add_argument("--stages", nargs="+", metavar="RULE", help="strike at these alone")
    arguments = parser.parse_args()
    kinds = arguments.kinds
    if os.geteuid() != 0 and NEEDS_ROOT & set(kinds):
        kinds = [k for k in kinds if k not in NEEDS_ROOT]
        print(f"{' and '.join(sorted(NEEDS_ROOT))} are left out: mounting a file system needs root", file=sys.stderr)
    outcomes: list[Outcome] = []
    began = time.monotonic()
    for chain in (CHAINS[scene] for scene in arguments.chains):
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            undisturbed = time.monotonic()
            lab = Lab(Path(folder), chain)
            print(f"{chain.scene}, undisturbed: {time.monotonic() - undisturbed:.0f} s", file=sys.stderr)
            steps = plan(kinds, lab, arguments.trials, arguments.seed)
            outcomes += inject(lab, [step for step in steps if step[1] in (arguments.stages or lab.stages.order)])
    print(f"{(time.monotonic() - began) / 60:.0f} min", file=sys.stderr)
    print(table(outcomes))
    return int(any(o.failure for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
