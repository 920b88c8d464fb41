"""Files over https, and of object stores: a broken transfer goes on where it stopped, and redirects stay https."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scrflow.core.errors import WRITING

_TIMEOUT_S = 30.0
_ATTEMPTS = 3
_CHUNK = 1 << 20
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)

OpenUrl = Callable[..., Any]  # (Request, timeout=seconds) -> response, as urllib's opener


class Unreachable(Exception):
    """A url that gives no file; the message says why."""


class HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if urlsplit(newurl).scheme != "https":
            raise urllib.error.URLError(f"redirected to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


# urllib's, but for redirects that leave https
OPENER = urllib.request.build_opener(HttpsOnly)


def fetch(
    url: str, part: Path, open_url: OpenUrl | None = None, progress: Callable[[int, int | None], None] | None = None
) -> None:
    """Bring ``part`` to hold what ``url`` has, beginning where the file ends. Unreachable after three attempts.

    ``progress`` is called with the bytes that are there and, where the server says, their number in the end.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _transfer(url, part, open_url or _opener(url), progress)
            return
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the part is as long as the file or longer: begin anew
                part.unlink(missing_ok=True)
            if attempt == _ATTEMPTS or (error.code < 500 and error.code not in (408, 416, 429)):
                raise Unreachable(f"HTTP {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and (error.errno in _OF_THE_DISK or error.filename == str(part)):
                error.add_note(f"{WRITING}{part}")
                raise  # no server's doing, and it would be the same again
            if attempt == _ATTEMPTS:
                raise Unreachable(str(getattr(error, "reason", error)) or type(error).__name__) from None
        time.sleep(min(2.0 ** (attempt - 1), 4.0) if open_url is None else 0.0)


def _opener(url: str) -> OpenUrl:
    if urlsplit(url).scheme != "s3":
        return OPENER.open
    from scrflow.storage.transfer_s3 import open_s3

    return open_s3


def _transfer(url: str, part: Path, open_url: OpenUrl, progress: Callable[[int, int | None], None] | None) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(
        url, headers={"User-Agent": "scrflow", **({"Range": f"bytes={have}-"} if have else {})}
    )
    with contextlib.closing(open_url(request, timeout=_TIMEOUT_S)) as response:
        have = have if response.status == 206 else 0
        length = response.headers.get("Content-Length")
        expected = int(length) if length is not None else None
        received = 0
        with open(part, "ab" if have else "wb") as f:
            while chunk := response.read(_CHUNK):
                f.write(chunk)
                received += len(chunk)
                if progress is not None:
                    progress(have + received, have + expected if expected is not None else None)
            f.flush()
            os.fsync(f.fileno())
        if expected is not None and received < expected:
            raise OSError(f"connection closed after {received} of {expected} bytes")
