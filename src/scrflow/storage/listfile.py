"""Lines of list files, each of which begins with an image name.

The formats (hloc's lists, visuallocalization.net's poses, pose lists) separate fields by blanks and do not say how to
write names that hold some. Such a name extends to the last field of its line that ends in a photo's suffix: no number
and no camera model does. A name that begins with #, as comments do, is written as a path in the folder: ``./#1.jpg``.
"""

import codecs
import re
from pathlib import Path
from typing import TextIO

from scrflow.core.errors import ScrflowError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".heic", ".heif"})
_HERE = "./"


def has_suffix(name: str) -> bool:
    """Whether it ends as a photo's name does."""
    return "." + name.rpartition(".")[2].lower() in SUFFIXES


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or UTF-16 with its byte-order mark (PowerShell), without the mark and with ``\\n``
    for every line end; ScrflowError for one that is missing or of another encoding."""
    try:
        data = Path(path).read_bytes()
        text = data.decode(_encoding(data))
        return text.replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError:
        raise ScrflowError(f"{path}: no such file; put it there, or correct its path in the config") from None
    except (ValueError, OSError) as error:
        raise ScrflowError(f"{path}: cannot be read as text ({error}); correct the file or its path") from None


def open_text(path: Path) -> TextIO:
    """A file to read line by line, in the encodings of ``read_text``; a damaged character is replaced."""
    with open(path, "rb") as file:
        encoding = _encoding(file.read(2))
    return open(path, encoding=encoding, errors="replace")


def _encoding(data: bytes) -> str:
    return "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(line number, stripped line) of a text file, without empty lines and comments (#)."""
    # str.splitlines would also split at characters that names can hold
    lines = [(n, line.strip()) for n, line in enumerate(read_text(path).split("\n"), start=1)]
    return [(n, line) for n, line in lines if line and not line.startswith("#")]


def split_name(line: str) -> tuple[str, list[str]]:
    """The name that a line begins with, and the fields after it."""
    fields = list(re.finditer(r"\S+", line))
    end = max((field.end() for field in fields if has_suffix(field[0])), default=fields[0].end())
    return line[:end].removeprefix(_HERE), line[end:].split()


def listed(name: str) -> str:
    """The name as a list writes it."""
    return _HERE + name if name.startswith(("#", _HERE)) else name
