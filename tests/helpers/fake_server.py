"""A stand-in for the network: nothing leaves the machine."""

import hashlib
import io
import urllib.error
import zipfile

import pytest

from scrflow.storage import fetch as transfer

HOST = "https://example.org/"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def zipped(files: dict[str | zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in files.items():
            z.writestr(name, data)
    return buffer.getvalue()


class Server:
    """Serves ``files`` by url, honours Range, and breaks one transfer off after ``break_after`` bytes."""

    def __init__(self, monkeypatch):
        self.files: dict[str, bytes] = {}
        self.break_after: int | None = None
        self.asked: list[tuple[str, str | None]] = []  # url, header Range
        monkeypatch.setattr(transfer, "open_url", self.open)
        monkeypatch.setattr(transfer, "_WAITS_S", (0, 0))
        monkeypatch.delenv("SCRFLOW_OFFLINE", raising=False)

    def open(self, request, timeout):
        url, wanted = request.full_url, request.get_header("Range")
        self.asked.append((url, wanted))
        if url not in self.files:
            raise urllib.error.HTTPError(url, 404, "Not Found", {}, io.BytesIO())
        body = self.files[url][int(wanted.split("=")[1].rstrip("-")) if wanted else 0 :]
        sent = body[: self.break_after]
        self.break_after = None
        response = io.BytesIO(sent)
        response.status = 206 if wanted else 200
        response.headers = {"Content-Length": str(len(body))}
        return response


@pytest.fixture
def server(monkeypatch) -> Server:
    return Server(monkeypatch)
