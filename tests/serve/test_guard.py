"""Bodies and connections that are too large, too slow or too many."""

import asyncio
import socket
import threading
import time

import pytest
import uvicorn
from fastapi import HTTPException

from scrflow.serve import guard


async def reading(scope, receive, send):
    """An application that reads the body, and answers with its length."""
    length, more = 0, True
    while more:
        message = await receive()
        length, more = length + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(length).encode()})


def post(guarded: guard.Guard, parts, length: int | None = None, pause_s: float = 0.0):
    """The messages that a POST of these parts gets."""
    headers = [] if length is None else [(b"content-length", str(length).encode())]
    scope = {"type": "http", "method": "POST", "path": "/localize", "headers": headers}
    left, sent = list(parts), []

    async def receive():
        await asyncio.sleep(pause_s)
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message):
        sent.append(message)

    return guarded(scope, receive, send), sent


@pytest.mark.parametrize("length", [None, 1, guard.MAX_BYTES + 1])
def test_too_large_bodies_are_refused_whatever_they_say_of_their_length(monkeypatch, length):
    monkeypatch.setattr(guard, "MAX_BYTES", 5)
    guarded = guard.Guard(reading, None)
    with pytest.raises(HTTPException) as caught:
        asyncio.run(post(guarded, [b"abc", b"def", b"ghi"], length)[0])
    assert caught.value.status_code == 413 and guarded._reading == 0


def test_slow_bodies_are_given_up_as_a_whole(monkeypatch):
    monkeypatch.setattr(guard, "_BODY_S", 0.3)
    guarded = guard.Guard(reading, None)
    with pytest.raises(HTTPException) as caught:
        asyncio.run(post(guarded, [b"a"] * 1000, pause_s=0.01)[0])  # each part comes soon
    assert caught.value.status_code == 408 and guarded._reading == 0


def test_too_many_bodies_at_a_time(monkeypatch):
    monkeypatch.setattr(guard, "_BODIES", 2)
    guarded = guard.Guard(reading, None)

    async def four():
        posts = [post(guarded, [b"a", b"b"], pause_s=0.1) for _ in range(4)]
        await asyncio.gather(*(run for run, _ in posts))
        assert posts[0][1][1]["body"] == b"2"
        return [sent[0]["status"] for _, sent in posts]

    assert asyncio.run(four()) == [200, 200, 503, 503] and guarded._reading == 0


def test_connections_without_a_request_are_closed(monkeypatch):
    monkeypatch.setattr(guard, "_HEADER_S", 0.3)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(reading, http=guard.ImpatientProtocol, ws="none", lifespan="off", log_level="warning")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        while not server.started:
            time.sleep(0.02)
        try:
            for sent in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n"):
                with socket.create_connection(listening.getsockname(), timeout=20) as connection:
                    connection.sendall(sent)
                    while connection.recv(1000):  # b"" is the end that the server made
                        pass
        finally:
            server.should_exit = True
            thread.join()
