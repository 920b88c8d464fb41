"""A server over https on this machine, which can fail as others do."""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_CHUNK = 1 << 15
_SECONDS_A_CHUNK = 0.01  # some 3 MB a second, so that there is a middle to be killed in


class Site:
    """Serves the files of ``folder``, whole or from where a Range begins. SSL_CERT_FILE is set to its certificate,
    which the workflows that are started from this process trust then."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True)
        certificate, key = folder.parent / "certificate.pem", folder.parent / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
            check=True, capture_output=True,
        )  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        os.environ["SSL_CERT_FILE"] = str(certificate)
        self.cuts: list[int] = []  # bytes after which the next transfers break off
        self.cut_all: int | None = None  # and all after these
        self.other: dict[str, bytes] = {}  # what is served in place of a file

    def url(self, name: str) -> str:
        return f"https://localhost:{self._server.server_address[1]}/{name}"

    def length_to_send(self) -> int | None:
        return self.cuts.pop(0) if self.cuts else self.cut_all

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """Whatever faults are set in the block end with it."""
        try:
            yield
        finally:
            self.cuts, self.cut_all, self.other = [], None, {}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(site: Site) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            file = site.folder / name
            if not re.fullmatch(r"[\w.-]+", name) or not file.is_file():
                self.send_error(404)
                return
            data = site.other.get(name, file.read_bytes())
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            begin = int(wanted[1]) if wanted else 0
            if begin > len(data) or (wanted and begin == len(data)):
                self.send_error(416)
                return
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(data) - begin))
            self.end_headers()
            stop = site.length_to_send()
            end = len(data) if stop is None else min(len(data), begin + stop)
            with contextlib.suppress(OSError):  # a client that was killed
                for at in range(begin, end, _CHUNK):
                    self.wfile.write(data[at : min(end, at + _CHUNK)])
                    time.sleep(_SECONDS_A_CHUNK)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            """Silent: the workflows' own words are what is looked at."""

    return Handler
