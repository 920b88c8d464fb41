"""The folders of src/scrflow import only from folders below them, no modules import each other in a circle, and the
package has the names that it says."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import scrflow

SRC = Path(__file__).resolve().parents[1] / "src/scrflow"
# lowest first; docs/architecture.md says what each folder is for
FOLDERS = (
    *("core", "config", "storage", "pipeline", "interop", "scene", "sfm", "graph", "features", "training", "depths"),
    *("landmarks", "map", "localize", "serve", "baseline", "evaluate", "report", "newscene", "cli"),
)


@cache
def modules() -> dict[str, Path]:
    names = {path: ".".join(path.relative_to(SRC.parent).with_suffix("").parts) for path in SRC.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def imports(name: str, everywhere: bool) -> set[str]:
    """Modules of the package that a module imports: at its top, or in its functions too."""
    tree, found = ast.parse(modules()[name].read_text(encoding="utf-8")), set()
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if not everywhere and id(node) in inside:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "scrflow":
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & set(modules())
            found |= submodules or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & set(modules())
    return found - {name, "scrflow"}  # the package itself holds the version, and names that it imports when asked


def test_every_folder_has_its_place():
    assert {path.name for path in SRC.iterdir() if (path / "__init__.py").exists()} == set(FOLDERS)


def test_folders_import_from_below():
    def level(module: str) -> int:
        folder = module.split(".")[1] if "." in module else ""
        return FOLDERS.index(folder) if folder in FOLDERS else len(FOLDERS)

    upward = [
        f"{name} imports {found}" for name in modules() for found in imports(name, True) if level(found) > level(name)
    ]
    assert not upward


def test_every_public_name_exists():
    for name in scrflow.__all__:
        assert getattr(scrflow, name).__name__ == name


def test_no_circles():
    graph = {name: imports(name, False) for name in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"modules import each other: {' -> '.join(error.args[1])}") from None
