"""Kinds of faults: each is a function of a lab, a stage and a source of randomness, and gives an Outcome."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import psutil
from fault_lab import (
    Done,
    Lab,
    Outcome,
    Trial,
    damaged,
    files_under,
    named_files,
    processes_of,
    without_privileges,
)

Kind = Callable[[Lab, str, Random], Outcome]


def _signalled(kind: str, number: int, one: bool = False) -> Kind:
    """A signal to one process of the workflow (Snakemake or a job) or to all, at a random moment of the stage."""

    def strike(lab: Lab, stage: str, rng: Random) -> Outcome:
        trial = lab.trial(stage)
        run = trial.start()
        if trial.wait_for_stage(run, rng.random()):
            found = processes_of(run)
            for process in [rng.choice(found)] if one and found else found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
        return lab.survived(kind, trial, Trial.finish(run))

    return strike


def full_disk(lab: Lab, stage: str, rng: Random) -> Outcome:
    """Results are on a tmpfs, too small by a random amount for the largest product of what follows."""
    trial = lab.trial(stage)
    made = [product for name in lab.stages.following(stage) for product in lab.stages.products[name]]
    products = [lab.finished.folder / product for product in made]
    needed = max(sum(-(-f.stat().st_size // 4096) for f in files_under(product)) for product in products)  # pages
    with _tmpfs(trial.folder / "results") as resize:
        resize(_used(trial.folder / "results") + 4096 * rng.randrange(max(1, needed // 2)))
        done = trial.run()
        return lab.survived("disk full", trial, done, mend=lambda _: resize(1 << 28))


def full_project(lab: Lab, stage: str, rng: Random) -> Outcome:
    """The whole project is on a tmpfs with next to no room, for Snakemake's own files neither."""
    trial = lab.trial(stage)
    with _tmpfs(trial.folder) as resize:
        resize(_used(trial.folder) + 4096 * rng.choice((0, 1, 2, 4, 8, 16, 240, 260, 270, 280)))
        done = trial.run()
        return lab.survived("disk full, of the project", trial, done, mend=lambda _: resize(1 << 28))


def _used(folder: Path) -> int:
    """Bytes of the file system: counted, as a margin that grew with what is there let late products fit."""
    disk = os.statvfs(folder)
    return (disk.f_blocks - disk.f_bfree) * disk.f_frsize


@contextlib.contextmanager
def _tmpfs(folder: Path) -> Iterator[Callable[[int], None]]:
    """The folder on a file system of its own, whose size in bytes can be set."""
    aside = folder.with_name(folder.name + ".aside")
    folder.mkdir(exist_ok=True)
    folder.rename(aside)
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(folder)], check=True)
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True, symlinks=True)
        shutil.rmtree(aside)

        def resize(size: int) -> None:
            subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)

        yield resize
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _damage(how: str) -> Kind:
    """A product that is there already is damaged or deleted."""

    def kind(lab: Lab, stage: str, rng: Random) -> Outcome:
        trial = lab.trial(stage)
        name = rng.choice(sorted(name for name, content in trial.before.items() if content))
        file = trial.folder / name
        times = file.stat()
        if how == "product gone":
            file.unlink()
            trial.before.pop(name)
        else:
            file.write_bytes(damaged(file.read_bytes(), how, rng))
            if rng.random() < 0.5:  # a disk that forgets leaves the time as it was, a copy that broke off does not
                os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        done = trial.run()
        outcome = lab.survived(how, trial, done, mend=lambda d: _delete_named(d, trial))
        return replace(outcome, where=f"{name}, before {stage}")

    return kind


def _delete_named(done: Done, trial: Trial) -> None:
    """What the messages say: delete the files that they name."""
    files = named_files(done.errors, trial.folder)
    assert files, f"no file of the results is named: {done.errors}"
    for file in files:
        shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)


def no_permission(lab: Lab, stage: str, rng: Random) -> Outcome:
    """A product cannot be read, or the folder of the next one cannot be written."""
    trial = lab.trial(stage)
    if rng.random() < 0.5:
        target = trial.folder / rng.choice(sorted(trial.before))
        mode, kind = 0o000, "no permission to read"
    else:
        product = trial.folder / lab.stages.products[stage][0]
        product.parent.mkdir(parents=True, exist_ok=True)
        target, mode, kind = product.parent, 0o555, "no permission to write"
    old = target.stat().st_mode
    target.chmod(mode)
    try:
        done = trial.run(before=without_privileges)
    finally:
        target.chmod(old)
    return lab.survived(kind, trial, done, mend=lambda _: None)


def photo_changed(lab: Lab, stage: str, rng: Random) -> Outcome:
    """A photo is another one than when the scene was made, or is cut, or is gone."""
    trial = lab.trial(stage)
    images = trial.folder / lab.chain.photos
    bare = lab.chain.scene == "bare"
    listed = os.listdir(images) if bare else (images.parent / "mapping.txt").read_text().split()
    photo = images / rng.choice(sorted(listed))
    content, times = photo.read_bytes(), photo.stat()
    # a photo that is taken out of a folder of bare photos makes another scene, and no fault
    how = rng.choice(["another", "cut"] if bare else ["another", "cut", "gone"])
    if how == "another":
        other = rng.choice([name for name in listed if name != photo.relative_to(images).as_posix()])
        photo.write_bytes((images / other).read_bytes())
    elif how == "cut":
        photo.write_bytes(content[: rng.randrange(len(content))])
    else:
        photo.unlink()
    if photo.exists():  # one with another time is a change that a user made, and bare photos are then mapped anew
        os.utime(photo, ns=(times.st_atime_ns, times.st_mtime_ns))

    def put_back() -> None:
        photo.write_bytes(content)
        os.utime(photo, ns=(times.st_atime_ns, times.st_mtime_ns))

    done = trial.run()
    return lab.survived(f"photo {how}", trial, done, mend=lambda _: put_back())


def lost_records(lab: Lab, stage: str, rng: Random) -> Outcome:
    """Snakemake's own records of some jobs are cut or gone."""
    trial = lab.trial(stage)
    records = sorted(p for p in (trial.folder / ".snakemake/metadata").rglob("*") if p.is_file())
    for record in rng.sample(records, len(records) // 2):
        if rng.random() < 0.5:
            record.unlink()
        else:
            record.write_bytes(record.read_bytes()[: rng.randrange(record.stat().st_size)])
    return lab.survived("Snakemake's records", trial, trial.run())


KINDS: dict[str, Kind] = {
    "kill-one": _signalled("SIGKILL to one process", signal.SIGKILL, one=True),
    "kill-all": _signalled("SIGKILL to all", signal.SIGKILL),  # a power cut
    "term-all": _signalled("SIGTERM to all", signal.SIGTERM),  # a scheduler ahead of a time limit, or a shutdown
    "flip": _damage("flip"),
    "truncate": _damage("truncate"),
    "zeros": _damage("zeros"),
    "full-disk": full_disk,
    "full-project": full_project,
    "no-permission": no_permission,
    "photo": photo_changed,
    "records": lost_records,
    "gone": _damage("product gone"),
}
# what there must be before the stage for the kind to have something to break
NEEDS_A_PRODUCT = {"flip", "truncate", "zeros", "no-permission", "gone", "photo"}
NEEDS_ROOT = {"full-disk", "full-project"}
EACH_STAGE = {"kill-one", "kill-all", "term-all", "full-disk"}
