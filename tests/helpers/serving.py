"""A service in this process, with real workers."""

import asyncio
import json
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from scrflow.serve.app import bound, server_of
from scrflow.serve.pool import Pool


@dataclass
class Service:
    """``call`` returns status, headers and the JSON (or text) of the answer."""

    port: int
    pool: Pool

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(self, path: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, Any, Any]:
        request = urllib.request.Request(self.url + path, data, headers or {})
        try:
            with urllib.request.urlopen(request, timeout=300) as response:
                status, given, body = response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            status, given, body = error.code, error.headers, error.read()
        return status, given, json.loads(body) if "json" in given["Content-Type"] else body.decode()

    def localize(self, photo: bytes, headers: dict[str, str] | None = None, **texts: str) -> tuple[int, Any, Any]:
        data, kind = form(photo, **texts)
        return self.call("/localize", data, {"Content-Type": kind, **(headers or {})})


def form(photo: bytes | None, /, **texts: str) -> tuple[bytes, str]:
    """The body of a POST, and its Content-Type."""
    mark, parts = uuid.uuid4().hex, []
    for name, text in texts.items():
        parts.append(f'Content-Disposition: form-data; name="{name}"\r\n\r\n{text}'.encode())
    if photo is not None:
        parts.append(b'Content-Disposition: form-data; name="photo"; filename="../../etc/a.jpg"\r\n\r\n' + photo)
    body = b"".join(f"--{mark}\r\n".encode() + part + b"\r\n" for part in parts) + f"--{mark}--\r\n".encode()
    return body, f"multipart/form-data; boundary={mark}"


@contextmanager
def serving(maps: dict[str, Path], token: str | None = None, workers: int = 1, queue: int = 4) -> Iterator[Service]:
    pool = Pool(maps, workers, queue, 60, "cpu")
    servers: list[uvicorn.Server] = []
    with bound("127.0.0.1", 0) as listening:

        async def run() -> None:
            servers.append(await server_of(pool, token))
            await servers[0].serve([listening])

        thread = threading.Thread(target=lambda: asyncio.run(run()))
        thread.start()
        while not (servers and servers[0].started):
            assert thread.is_alive(), "the service does not start"
            time.sleep(0.02)
        try:
            yield Service(listening.getsockname()[1], pool)
        finally:
            servers[0].should_exit = True
            thread.join()
