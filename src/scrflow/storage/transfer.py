"""Files over https and from object stores: a broken transfer goes on where it stopped, and redirects stay https.

No library does this for us: pooch and fsspec begin a broken transfer anew and follow redirects away from https.
"""

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
from urllib.parse import unquote, urlsplit

from scrflow.core.errors import WRITING, ScrflowError

_TIMEOUT_S = 30.0
_WAITS_S = (1.0, 2.0)  # before the second and the third attempt
_CHUNK = 1 << 20
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)

Progress = Callable[[int, int | None], None]  # (bytes that are there, bytes in the end where the server says)


class Unreachable(Exception):
    """A url that gives no file; the message says why."""


class HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if urlsplit(newurl).scheme != "https":
            raise urllib.error.URLError(f"redirected to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


open_url = urllib.request.build_opener(HttpsOnly).open


def offline() -> bool:
    """Whether SCRFLOW_OFFLINE asks to keep off the network."""
    return os.environ.get("SCRFLOW_OFFLINE", "") not in ("", "0")


def fetch(url: str, part: Path, progress: Progress | None = None, most: int | None = None) -> None:
    """Bring the file ``part`` to hold what ``url`` (https, or s3://BUCKET/KEY) has, beginning where the file ends.

    Unreachable when offline, after three attempts, or for more than ``most`` bytes.
    """
    if offline():
        raise Unreachable("SCRFLOW_OFFLINE is set")
    for wait in (*_WAITS_S, None):
        try:
            _transfer(url, part, progress, most)
            return
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the part is as long as the file or longer: begin anew
                part.unlink(missing_ok=True)
            if wait is None or (error.code < 500 and error.code not in (408, 416, 429)):
                raise Unreachable(f"HTTP {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and (error.errno in _OF_THE_DISK or error.filename == str(part)):
                error.add_note(f"{WRITING}{part}")
                raise  # the disk's error, not the server's: another attempt would not help
            if wait is None:
                raise Unreachable(str(getattr(error, "reason", error)) or type(error).__name__) from None
        time.sleep(wait)


def _transfer(url: str, part: Path, progress: Progress | None, most: int | None) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "scrflow", **({"Range": f"bytes={have}-"} if have else {})}
    address = _signed(url) if urlsplit(url).scheme == "s3" else url
    request = urllib.request.Request(address, headers=headers)
    with contextlib.closing(open_url(request, timeout=_TIMEOUT_S)) as response:
        have = have if response.status == 206 else 0
        length = response.headers.get("Content-Length")
        expected = have + int(length) if length is not None else None
        with open(part, "ab" if have else "wb") as f:
            while chunk := response.read(_CHUNK):
                have += f.write(chunk)
                if most is not None and have > most:
                    raise Unreachable(f"over {most} bytes long")
                if progress is not None:
                    progress(have, expected)
            f.flush()
            os.fsync(f.fileno())
        if expected is not None and have < expected:
            raise OSError(f"connection closed after {have} of {expected} bytes")


def _signed(url: str) -> str:
    """An address of the object that holds for an hour. boto3 finds credentials, the bucket's region and the store by
    itself: AWS_ACCESS_KEY_ID, AWS_REGION and the like, ~/.aws, AWS_ENDPOINT_URL for a store that is not Amazon's."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise ScrflowError(
            f"{url}: addresses s3:// need boto3: make storage-plugins (docs/reproducibility.md)"
        ) from None
    parts = urlsplit(url)
    place = {"Bucket": parts.netloc, "Key": unquote(parts.path).removeprefix("/")}
    try:
        client = boto3.client("s3", config=Config(signature_version="s3v4"))
        return client.generate_presigned_url("get_object", Params=place, ExpiresIn=3600)
    except BotoCoreError as error:
        raise ScrflowError(
            f"{url}: {error} (boto3; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws)"
        ) from None
