"""A place to break things in: copies of a finished tiny project, and what became of them.

A trial copies the project, takes the products of one stage and of all that follow away, lets one fault happen while
they are made anew, and looks at what the user is left with. It is survived when the poses are those of the undisturbed
run and the exit status is 0, at once ("unharmed") or by the same command again ("goes on"); or when one line said what
was wrong, all that was made before is still there byte for byte, and doing what the line says gives these poses
("told"). Everything else is a failure: other results with exit status 0 above all.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

import psutil
from chains import POSED, Chain, Stages
from tiny_project import Project

Result = Literal["unharmed", "goes on", "told"]


@dataclass(frozen=True)
class Outcome:
    """How a trial ended. ``failure`` is None where it was survived."""

    kind: str
    where: str
    result: Result | None
    line: str = ""
    failure: str | None = None


@dataclass
class Done:
    """A workflow that ended."""

    status: int
    text: str

    @property
    def errors(self) -> list[str]:
        """What jobs and Snakefile told the user, without Snakemake's frame."""
        found = re.findall(r"^(?:\[[^\]]*\] )?(?:error: |WorkflowError[^\n]*\n)(.*)$", self.text, re.M)
        return list(dict.fromkeys(line for line in found if not line.startswith("At least one job did not complete")))


class Trial:
    """A copy of the project without the products of ``stage`` and of what follows; the undisturbed ones beside it."""

    def __init__(self, lab: Lab, folder: Path, stage: str):
        self.lab, self.stage, self.chain, self.stages = lab, stage, lab.chain, lab.stages
        self.project, self.folder = lab.finished.copy(folder), folder
        for name in self.stages.following(stage):
            for product in self.stages.products[name]:
                self.remove(product)
        for name in self.stages.products:
            for log in self.stages.logs(folder, name):
                log.unlink()
        self.before = self._content()

    def remove(self, path: str) -> None:
        target = self.folder / path
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)

    def _content(self) -> dict[str, bytes]:
        """Every product that is there; what later stages are made of."""
        gone = self.stages.following(self.stage)
        kept = [p for name, products in self.stages.products.items() if name not in gone for p in products]
        files = [file for product in kept for file in files_under(self.folder / product)]
        return {str(f.relative_to(self.folder)): f.read_bytes() for f in files}

    def start(self, *options: str, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
        """The workflow in a process group of its own."""
        return subprocess.Popen(
            self.project.command(*self.chain.targets, *options),
            cwd=self.project.folder,
            env=self.project.environment(),
            text=True,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=before,
        )

    def run(self, *options: str, before: Callable[[], None] | None = None) -> Done:
        return self.finish(self.start(*options, before=before))

    @staticmethod
    def finish(run: subprocess.Popen[str], timeout: float = 1800) -> Done:
        text, _ = run.communicate(timeout=timeout)
        return Done(run.returncode, text)

    def wait_for_stage(self, run: subprocess.Popen[str], share: float) -> bool:
        """Wait for the stage's log, and on to a share of the time that the stage takes; False if all was over."""
        while not self.stages.logs(self.folder, self.stage):
            if run.poll() is not None:
                return False
            time.sleep(0.005)
        time.sleep(share * self.lab.seconds[self.stage])
        return run.poll() is None

    def changed(self) -> list[str]:
        """Which of the earlier products are gone, or not what they were."""
        now = self._content()
        return [name for name, content in self.before.items() if now.get(name) != content]

    def right(self) -> bool:
        files = {name: self.folder / name for name in (*self.lab.answers, *self.chain.targets)}
        return all(file.is_file() and file.stat().st_size for file in files.values()) and all(
            files[name].read_bytes() == content for name, content in self.lab.answers.items()
        )

    def differences(self, most: int = 6) -> str:
        """Products that are not those of the undisturbed run, the first stage's first: where it began."""
        found = []
        for products in self.stages.products.values():
            for product in products:
                mine, theirs = self.folder / product, self.lab.finished.folder / product
                for file in files_under(theirs):
                    other = mine / file.relative_to(theirs)
                    if not (other.is_file() and other.read_bytes() == file.read_bytes()):
                        found.append(str(other.relative_to(self.folder)))
        return ", ".join(found[:most])

    def litter(self) -> list[str]:
        hidden = (self.folder / "results").rglob(".*")
        return [str(p.relative_to(self.folder)) for p in hidden if ".tmp" in p.name]


class Lab:
    """The finished project, what it answers, and how long each stage took in it."""

    def __init__(self, folder: Path, chain: Chain = POSED, finished: Project | None = None):
        """``finished``: a project with all that the chain makes; made in ``folder`` where there is none."""
        self.folder, self.chain = folder, chain
        folder.mkdir(parents=True, exist_ok=True)
        self.finished = finished or Project(folder / "finished")
        if finished is None:
            chain.prepare(self.finished)
        self.finished.snakemake(*chain.targets)
        self.answers = {name: self.finished.read(name) for name in chain.answers}
        self.stages = Stages(self.finished, chain.targets)
        self.seconds = {name: self.stages.seconds(self.finished.folder, name) for name in self.stages.order}
        self._trials = 0

    def trial(self, stage: str) -> Trial:
        self._trials += 1
        return Trial(self, self.folder / f"trial-{self._trials}", stage)

    def survived(self, kind: str, trial: Trial, done: Done, mend: Callable[[Done], None] | None = None) -> Outcome:
        """What became of a trial whose disturbed run is ``done``. ``mend`` does what the message says; without one the
        same command is given again."""
        try:
            return self._judged(kind, trial, done, mend)
        finally:
            shutil.rmtree(trial.project.folder, ignore_errors=True)

    def _judged(self, kind: str, trial: Trial, done: Done, mend: Callable[[Done], None] | None) -> Outcome:
        def failed(why: str, last: Done = done) -> Outcome:
            return Outcome(kind, trial.stage, None, failure=f"{why}\n{last.text[-3000:]}")

        if done.status == 0 and trial.right():
            return Outcome(kind, trial.stage, "unharmed")
        if done.status == 0:
            return failed(f"other results with exit status 0: {trial.differences()}")
        if "Traceback" in done.text:
            return failed("a traceback")
        if mend is None and (changed := trial.changed()):
            return failed(f"earlier products did not survive: {changed}")
        line = done.errors[0] if done.errors else ""
        if mend is not None:
            if not done.errors:
                return failed("nothing was told")
            mend(done)
        again = trial.run()
        if again.status != 0:
            return failed("the next run fails", again)
        if not trial.right():
            return failed(f"other results with exit status 0, by the next run: {trial.differences()}", again)
        if litter := trial.litter():
            return failed(f"left behind: {litter}", again)
        if "Nothing to be done" not in trial.run().text:
            return failed("a third run has something to do", again)
        return Outcome(kind, trial.stage, "told" if mend is not None else "goes on", line)


def processes_of(run: subprocess.Popen[str]) -> list[psutil.Process]:
    """Snakemake and all that it started."""
    try:
        main = psutil.Process(run.pid)
        return [main, *main.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def files_under(path: Path) -> list[Path]:
    """The file itself, or all files of a folder."""
    return [file for file in sorted(path.rglob("*")) or [path] if file.is_file()]


def without_privileges() -> None:
    """For preexec_fn: root, too, is then held to the permissions of files (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH)."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (1, 2):
        if libc.prctl(24, capability, 0, 0, 0) != 0:  # PR_CAPBSET_DROP
            os._exit(97)


def damaged(data: bytes, how: str, rng: Random) -> bytes:
    """The bytes of a file after a fault of the disk or of a transfer."""
    if how == "flip":
        place = rng.randrange(len(data))
        return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
    if how == "truncate":
        return data[: rng.randrange(len(data))]
    begin = rng.randrange(len(data))  # zeros
    end = min(len(data), begin + rng.randint(16, 4096))
    return data[:begin] + bytes(end - begin) + data[end:]


def named_files(lines: Iterable[str], folder: Path) -> list[Path]:
    """Files and folders of the results that messages name, if they are there."""
    named = dict.fromkeys(word for line in lines for word in re.findall(r"results/[^\s:;,]+", line))
    return [folder / word for word in named if (folder / word).exists()]
