"""The command ``scrflow new-scene``: pick frames of a video, draft, tell, write."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scrflow.core.errors import ScrflowError
from scrflow.newscene.draft import (
    check_free,
    check_scene_name,
    chosen_form,
    draft_scene,
    frames_folder,
    write_scene_config,
)
from scrflow.newscene.options import NewScene
from scrflow.pipeline.project import Project


def new_scene(
    options: NewScene,
    config_dir: Path,
    out: Path | None,
    images: Path | None,
    max_frames: int,
    force: bool,
    dry_run: bool,
) -> None:
    """Write OUT/NAME.yaml (OUT: the config's scenes) and print what was found; with ``dry_run`` print it alone.

    The frames of a video go to ``images``, or NAME/images under data_root. ScrflowError as in ``draft_scene``.
    """
    import torch

    project = Project(config_dir)
    check_scene_name(options.name, project)
    path = (out or config_dir / "scenes") / f"{options.name}.yaml"
    check_free(path, force or dry_run)
    console = Console()
    found = chosen_form(options)
    if images is not None and found.form != "video":
        raise ScrflowError(f"{options.path}: --images is for the frames of a video, this is of form {found.form}")
    if found.form == "video":
        folder = images or frames_folder(options.name, project)
        if dry_run:
            console.print(
                f"{found.root}: a video; up to {max_frames} frames would go to {folder}", soft_wrap=True, markup=False
            )
            return
        from scrflow.newscene.video import PickOptions, pick_frames

        picked = pick_frames(found.root, folder, PickOptions(max_frames=max_frames))
        console.print(
            f"{len(picked.names)} of {picked.decoded} frames of {found.root} in {folder}", soft_wrap=True, markup=False
        )
        inside = folder.name == "images"
        options = options.model_copy(update={"path": folder.parent if inside else folder, "form": "photos"})
    draft = draft_scene(options, project, torch.cuda.is_available())
    _print(console, draft.rows, draft.missing)
    if dry_run:
        console.print(draft.text, markup=False, highlight=False, soft_wrap=True)
        return
    write_scene_config(draft, path, force)
    for file, _ in (*draft.lists, (path, "")):
        console.print(f"written: {file}", soft_wrap=True, markup=False)
    if path.parent.resolve() == (config_dir / "scenes").resolve():
        console.print(
            f"next: look at it, then snakemake --cores all results/{options.name}/poses.txt",
            soft_wrap=True,
            markup=False,
        )
    else:
        console.print(f"next: look at it, and put it into {config_dir / 'scenes'}", soft_wrap=True, markup=False)


def _print(console: Console, rows: tuple[tuple[str, str], ...], missing: tuple[str, ...]) -> None:
    table = Table("what", "found")
    for what, found in rows:
        table.add_row(what, escape(found))
    console.print(table)
    for line in missing:
        console.print(f"- {escape(line)}", highlight=False)
