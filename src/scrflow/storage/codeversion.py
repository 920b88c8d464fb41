"""Version of a stage's own code: a digest of its module and of what that imports from this package.

Snakemake tracks the script that a rule names, not the package behind it, so a rule's params carry this digest. Comments
and docstrings do not count. Modules that hold configuration, messages, provenance, file formats or downloads are left
out: what they change in a stage is in its params already (the config subset), in the schema version, or in the SHA-256
of what was downloaded.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

_ROOT = Path(__file__).parents[1]
# modules, and folders with everything in them
_NEUTRAL = (
    *("core.errors", "core.plugins", "core.progress", "config", "pipeline", "cli"),
    *("storage.artifact", "storage.checksum", "storage.codeversion", "storage.fetch", "storage.journal"),
    *("storage.untrusted", "storage.weights"),
)
_BESIDE = (".json", ".html", ".css", ".js")  # numbers and templates of a module, in files of its name


@functools.cache
def code_version(*modules: str) -> str:
    """Digest (12 hex digits) of the modules, named relative to the package (``training.stage``), and of every module of
    the package that they import, directly or not."""
    seen: set[str] = set()
    todo = list(modules)
    while todo:
        name = todo.pop()
        neutral = any(name == n or name.startswith(f"{n}.") for n in _NEUTRAL)
        if name and name not in seen and not neutral:
            seen.add(name)
            todo.extend(_imports(name))
    text = "".join(f"{name}:{_digest(name)}\n" for name in sorted(seen))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _path(module: str) -> Path | None:
    base = _ROOT.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


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
            found += submodules if len(submodules) == len(names) else [*submodules, base]
        elif isinstance(node, ast.Import):
            found += [a.name.removeprefix("scrflow.") for a in node.names if a.name.startswith("scrflow.")]
    return found


def _digest(module: str) -> str:
    tree = _tree(module)
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body[0].value.value = ""
    beside = (_path(module).with_suffix(suffix) for suffix in _BESIDE)
    data = b"".join(path.read_bytes() for path in beside if path.is_file())
    return hashlib.sha256(ast.dump(tree).encode() + data).hexdigest()
