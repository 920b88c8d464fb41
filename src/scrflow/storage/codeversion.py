"""Version of a stage's own code: a digest of the module and of what it imports from this package.

Snakemake tracks the script that a rule names, not the package behind it, so a rule's params carry this digest. Comments
and docstrings do not count. Modules that only carry configuration, messages, provenance or file forms are left out:
their effect on a stage is in its params already (the config subset) or in the schema version.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

_ROOT = Path(__file__).parents[1]
# modules, and folders with all that is in them
_NEUTRAL = (
    *("core.errors", "core.progress", "config", "pipeline", "cli"),
    *("storage.artifact", "storage.codeversion", "storage.h5", "storage.npz"),
)
_BESIDE = (".json", ".html", ".css", ".js")


@functools.cache
def code_version(*modules: str) -> str:
    """Digest (12 hex digits) of the modules, named relative to the package (``train``, ``encoders.sift``), and of
    every module of the package that they import, directly or not."""
    seen: set[str] = set()
    todo = list(modules)
    while todo:
        name = todo.pop()
        if name and name not in seen and not _is_neutral(name):
            seen.add(name)
            todo.extend(_imports(name))
    text = "".join(f"{name}:{_digest(name)}\n" for name in sorted(seen))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _is_neutral(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in _NEUTRAL)


def _path(module: str) -> Path | None:
    base = _ROOT.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@functools.cache
def _tree(module: str) -> ast.Module:
    path = _path(module)
    if path is None:
        raise ValueError(f"no module scrflow.{module}")
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _imports(module: str) -> list[str]:
    found = []
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "scrflow":
            base = node.module.removeprefix("scrflow").removeprefix(".")
            names = [f"{base}.{a.name}".removeprefix(".") for a in node.names]
            submodules = [n for n in names if _path(n)]
            found.extend(submodules)
            if base and len(submodules) < len(names):
                found.append(base)
        elif isinstance(node, ast.Import):
            found.extend(a.name.removeprefix("scrflow.") for a in node.names if a.name.startswith("scrflow."))
    return found


def _digest(module: str) -> str:
    tree = _tree(module)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                first.value.value = ""
    # numbers and templates that a module reads from files of its name beside it
    beside = (_path(module).with_suffix(suffix) for suffix in _BESIDE)
    data = b"".join(path.read_bytes() for path in beside if path.is_file())
    return hashlib.sha256(ast.dump(tree).encode() + data).hexdigest()
