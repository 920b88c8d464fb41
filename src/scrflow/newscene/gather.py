"""Photos that cannot stay where they are: upright JPEGs of them, or links, in one new folder.

They cannot stay if EXIF turns one, if one is HEIC, or if a folder of queries lies outside of theirs.
"""

from pathlib import Path

from scrflow.newscene.queries import Listed, NewScene, stated_split
from scrflow.scene.checks import check_unused
from scrflow.scene.lists import PhotoNames
from scrflow.scene.photo_files import gather, list_photos, needs_copy, upright_name
from scrflow.scene.readers import Found
from scrflow.storage.artifact import write_text
from scrflow.storage.listfile import listed, read_lines, split_name


def folders_to_gather(options: NewScene, found: Found) -> dict[Path, str]:
    """Folder of photos -> its subfolder in a new folder; empty if the photos can stay where they are."""
    images = found.root / found.source["images"]
    elsewhere = [q for q in options.queries if q.is_dir() and not q.is_relative_to(images)]
    if not elsewhere and not any(needs_copy(images / name) for name in list_photos(images)):
        return {}
    folders = {images: "mapping" if elsewhere else ""}
    for folder in elsewhere:
        free = (f"{folder.name}{end}" for end in ("", *(f"-{n}" for n in range(2, len(elsewhere) + 2))))
        folders[folder] = next(name for name in free if name not in folders.values())
    return folders


def gathered(options: NewScene, found: Found, folders: dict[Path, str], out: Path) -> NewScene:
    """Put upright JPEGs of the photos, or links where they are that already, into the new folder ``out``. Returns the
    options with ``out`` in place of PATH. Lists of photos are rewritten with the new names beside ``out``."""
    check_unused(out)
    gather({_under(sub, name): folder / name for folder, sub in folders.items() for name in list_photos(folder)}, out)
    images = next(iter(folders))

    def renamed(name: str) -> str:
        return _under(folders[images], upright_name(name))

    lists = [Listed(path) for path in options.queries if path.is_file()]
    lists += [Listed(options.positions)] if options.positions else []
    if not options.queries and not options.every:
        lists += stated_split(found.root, PhotoNames(images)).lists()
    for each in lists:
        here = each.names is None
        rows = [split_name(line) for _, line in read_lines(each.by)] if here else [(name, []) for name in each.names]
        text = "".join(" ".join([listed(renamed(name)), *fields]) + "\n" for name, fields in rows)
        write_text(out.parent / (each.by.name if here else f"{each.part}.txt"), text)

    def moved(query: Path) -> Path:
        if query.is_file():
            return out.parent / query.name
        return out / (folders[query] if query in folders else Path(folders[images]) / query.relative_to(images))

    known = options.known_distance and (*map(renamed, options.known_distance[:2]), options.known_distance[2])
    update = {
        "path": out.parent,
        "form": "photos",
        "queries": tuple(map(moved, options.queries)),
        "positions": options.positions and out.parent / options.positions.name,
        "known_distance": known,
    }
    return options.model_copy(update=update)


def _under(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
