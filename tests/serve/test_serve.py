"""The service from outside: answers, mistakes of clients, workers that end, the token, and the page."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import photo_kinds as kinds
import plane_map
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation
from serving import Service, form, serving
from typer.testing import CliRunner

from scrflow.cli.app import app
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import camera_centre
from scrflow.localize.localizer import Localizer
from scrflow.serve.app import Answer, names_of

LINE = plane_map.CAMERA_LINE


@pytest.fixture(scope="module")
def served(wall_landmarks, wall_map) -> Iterator[Service]:
    with serving({"wall": wall_landmarks.map, "wall/head": wall_map.map}) as running:
        yield running


@pytest.fixture(scope="module")
def query(wall_landmarks) -> bytes:
    return (wall_landmarks.photos / next(iter(wall_landmarks.queries))).read_bytes()


def matrix(pose: dict) -> np.ndarray:
    rotation = Rotation.from_quat(pose["rotation_wxyz"], scalar_first=True)
    return np.column_stack([rotation.as_matrix(), pose["translation"]])


# -------------------------------------------------------------------------------------------------------------- answers


def test_a_photo_gets_the_localizer_s_pose(served, wall_landmarks, query):
    status, _, answer = served.localize(query, map="wall", camera=LINE, matches="true")
    assert status == 200
    Answer.model_validate(answer)
    expected = Localizer.open(wall_landmarks.map).localize(query, LINE)
    pose, back = matrix(answer["cam_from_world"]), matrix(answer["world_from_cam"])
    assert np.allclose(pose, expected.cam_from_world, atol=1e-6)
    assert np.allclose(pose[:, :3] @ back[:, 3] + pose[:, 3], 0) and np.allclose(pose[:, :3], back[:, :3].T)
    assert answer["inliers"] == expected.inliers.sum() == len(answer["matches"])
    assert answer["confidence"] == pytest.approx(expected.confidence, abs=1e-3)
    assert answer["camera"]["source"] == "given" and answer["unit"] == "m" and answer["ms"]["total"] > 0
    for match in answer["matches"]:
        x = pose @ [*match["xyz_world"], 1]
        assert np.linalg.norm(plane_map.K[:2] @ (x / x[2]) - match["pixel"]) < 12


def test_cameras_from_exif_and_unknown_ones(served, query):
    with Image.open(io.BytesIO(query)) as image:
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0xA405] = round(280 / 400 * 43.27)  # focal length of the 35 mm equivalent
        data = io.BytesIO()
        image.save(data, "JPEG", quality=95, exif=exif)
    _, _, answer = served.localize(data.getvalue(), map="wall")
    assert answer["camera"]["source"] == "exif" and answer["camera"]["params"][0] == pytest.approx(280, rel=0.02)
    status, _, answer = served.localize(query, map="wall")
    assert status == 200 and answer["camera"]["source"] == "estimated" and answer["camera"]["focal_spread"] > 0


def test_hints(served, wall_landmarks, query):
    centre = camera_centre(next(iter(wall_landmarks.queries.values())))
    near = " ".join(map(str, centre))
    _, _, answer = served.localize(query, map="wall", camera=LINE, near=f"{near} 0.5")
    assert answer["cam_from_world"] is not None
    _, _, answer = served.localize(query, map="wall", camera=LINE, near="9 9 9 0.5")
    assert answer["cam_from_world"] is None and "inliers" in answer["reason"] and answer["matches"] is None


def test_maps_health_metrics_and_schema(served, query):
    _, _, listed = served.call("/maps")
    assert [m["name"] for m in listed["maps"]] == ["wall", "wall/head"] and not listed["routed"]
    assert [m["kind"] for m in listed["maps"]] == ["landmarks", "head"]
    _, _, drawn = served.call("/maps/wall/head/scene")
    assert drawn["points"] == [] and len(drawn["cameras"]) == 12
    assert len(served.call("/maps/wall/scene")[2]["points"]) == 900
    assert served.call("/healthz")[::2] == (200, {"workers": 1, "waiting": 0})
    served.localize(query, map="wall", camera=LINE)
    _, _, metrics = served.call("/metrics")
    assert float(re.search(r'scrflow_photos_total{outcome="localized"} (\S+)', metrics)[1]) >= 1
    assert re.search(r"^scrflow_localize_seconds_count \S+$", metrics, re.MULTILINE)
    _, _, schema = served.call("/openapi.json")
    assert {"/localize", "/maps", "/healthz"} <= set(schema["paths"])
    assert {"cam_from_world", "world_from_cam", "confidence"} <= set(
        schema["components"]["schemas"]["Answer"]["properties"]
    )
    # the documentation works offline
    page = served.call("/docs")[2]
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)
    for path in re.findall(r'(?:src|href)="(/[^"]+)"', page):
        with urllib.request.urlopen(served.url + path) as response:
            assert response.status == 200


# ------------------------------------------------------------------------------------------------ mistakes of clients


BAD = {
    **{kind: (lambda data=data: data()) for kind, (_, data, _) in kinds.REFUSED.items()},
    "50 million pixels": lambda: kinds.saved(Image.new("L", (8660, 5780), 128), format="JPEG"),
    "a PDF": lambda: b"%PDF-1.4\n" + bytes(1000),
    "PostScript": lambda: (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\n(/etc/passwd) run\n%%EOF\n"
    ),
    "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="99" height="99"/>',
}


def test_bad_photos_get_a_line_and_end_no_worker(served, query):
    for kind, data in BAD.items():
        status, _, answer = served.localize(data(), map="wall", camera=LINE)
        assert status == 422 and set(answer) == {"error"}, (kind, answer)
        assert answer["error"].startswith("photo: ") and "\n" not in answer["error"], kind
        assert not re.search(r"/tmp|\.py|Traceback|the lists", answer["error"]), (kind, answer)
    assert served.pool.restarts == 0
    assert served.localize(query, map="wall", camera=LINE)[0] == 200


def test_bad_texts_and_bodies(served, query):
    for texts, why in (
        ({"camera": "PINHOLE 1 2"}, "photo: not a camera"),
        ({"camera": "PINHOLE 99 99 50 50 49 49"}, "image is 320x240 px, its camera is 99x99"),
        ({"near": "1 2 3"}, "near: '1 2 3' is no hint"),
        ({"map": "../etc"}, "map: there is no '../etc'; name one of wall, wall/head"),
        ({"map": ""}, "map: several are served, of several scenes; name one of wall, wall/head"),
        ({"matches": "perhaps"}, "matches: Input should be a valid boolean"),
    ):
        status, _, answer = served.localize(query, **{"map": "wall", **texts})
        assert status == 422 and why in answer["error"], answer
    for data, kind in (
        (b"{}", "application/json"),
        (form(None, photo="a text")[0], "multipart/form-data; boundary=other"),
        form(None, map="wall"),
        form(None, photo="a text, and no file"),
        (query, "image/jpeg"),
    ):
        status, _, answer = served.call("/localize", data, {"Content-Type": kind})
        assert status in (400, 422) and set(answer) == {"error"}, answer
    for path, status in (("/nothing", 404), ("/maps/none/scene", 404), ("/static-offline-docs/../app.py", 404)):
        assert served.call(path)[::2][0] == status
    assert served.call("/localize")[0] == 405
    assert served.pool.restarts == 0


def test_cut_requests_leave_nothing_behind(served, query):
    body, kind = form(query, map="wall", camera=LINE)
    head = f"POST /localize HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for sent in (head[:40], head, head + body[:-5], head + body, b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(sent)
    status, _, answer = served.localize(query, map="wall", camera=LINE)
    assert status == 200 and answer["cam_from_world"] is not None
    assert served.pool.restarts == 0 and served.call("/healthz")[2]["waiting"] == 0


# ---------------------------------------------------------------------------------------------------- workers and queue


def test_a_worker_that_ends_or_stalls_costs_one_photo(wall_landmarks, query):
    with serving({"wall": wall_landmarks.map}, queue=1) as one, ThreadPoolExecutor(4) as clients:

        def send():
            return one.localize(query, camera=LINE)

        def worker() -> int:
            return next(iter(one.pool._workers))._process.pid

        def until(true) -> None:
            while not true():
                time.sleep(0.02)

        assert send()[0] == 200
        # a worker that is busy: the second photo waits, and the third is sent away
        os.kill(worker(), signal.SIGSTOP)
        first = clients.submit(send)
        until(lambda: one.pool._idle.empty())
        second = clients.submit(send)
        until(lambda: one.pool.waiting == 1)
        status, headers, answer = send()
        assert status == 503 and int(headers["Retry-After"]) >= 1 and "queue is full" in answer["error"]
        os.kill(worker(), signal.SIGCONT)
        assert first.result()[0] == second.result()[0] == 200
        # one that is killed: its photo is lost, and another worker takes the next
        os.kill(worker(), signal.SIGSTOP)
        first = clients.submit(send)
        until(lambda: one.pool._idle.empty())
        os.kill(worker(), signal.SIGKILL)
        status, _, answer = first.result()
        assert status == 500 and answer == {"error": "the photo could not be localized, and the service's log says why"}
        assert send()[0] == 200 and one.pool.restarts == 1
        # one that does not come to an end
        one.pool.timeout_s = 0.2
        os.kill(worker(), signal.SIGSTOP)
        assert send()[0] == 504
        one.pool.timeout_s = 60
        assert send()[0] == 200 and one.pool.restarts == 2 and one.call("/healthz")[2] == {"workers": 1, "waiting": 0}


def test_the_token(wall_landmarks, query):
    with serving({"wall": wall_landmarks.map}, token="correct horse") as closed:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer corréct horse"}):
            status, _, answer = closed.localize(query, headers, camera=LINE)
            assert status == 401 and "token" in answer["error"]
        assert closed.call("/maps")[0] == closed.call("/metrics")[0] == 401
        assert closed.call("/healthz")[0] == closed.call("/")[0] == closed.call("/docs")[0] == 200
        assert closed.localize(query, {"Authorization": "Bearer correct horse"}, camera=LINE)[0] == 200


# ---------------------------------------------------------------------------------------------------------- the command


def test_names_of_maps(tmp_path):
    paths = [
        tmp_path / p
        for p in ("demo/a/map.safetensors", "demo/b/map.safetensors", "room/a/map.safetensors", "c.safetensors")
    ]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert list(names_of(paths[:2])) == ["a", "b"] and list(names_of(paths[3:])) == ["c"]
    assert list(names_of(paths[:3])) == ["demo/a", "demo/b", "room/a"]
    with pytest.raises(ScrflowError, match="named twice"):
        names_of([paths[0], paths[0]])
    with pytest.raises(ScrflowError, match="map is missing"):
        names_of([tmp_path / "none.safetensors"])


def test_the_command(wall_landmarks, query, tmp_path):
    command = [sys.executable, "-m", "scrflow", "serve", str(wall_landmarks.map), "--workers", "1"]

    def refused(*more: str) -> str:
        done = CliRunner().invoke(app, [*command[3:], *more])
        assert isinstance(done.exception, ScrflowError), done.output
        return str(done.exception)

    assert "give --token TOKEN (or SCRFLOW_TOKEN), or --no-token" in refused("--host", "0.0.0.0")
    assert "at least 8 characters" in refused("--token", "short")
    (tmp_path / "map.safetensors").write_bytes(wall_landmarks.map.read_bytes()[:-9])
    assert "map.safetensors: damaged" in refused(str(tmp_path / "map.safetensors"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "Address already in use; give another" in refused("--port", str(taken.getsockname()[1]))
    running = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address = re.fullmatch(r"serving .*: (http://127\.0\.0\.1:\d+)/\n", running.stdout.readline())[1]
        body, kind = form(query, camera=LINE)
        request = urllib.request.Request(f"{address}/localize", body, {"Content-Type": kind})
        with urllib.request.urlopen(request) as response:
            assert json.load(response)["inliers"] > 100
    finally:
        running.send_signal(signal.SIGTERM)
        _, complaints = running.communicate(timeout=300)
    assert complaints == ""


# ------------------------------------------------------------------------------------------------------------- the page


def test_the_page_in_chromium(served, wall_landmarks, browser):
    tab, told, asked = browser.new_page(viewport={"width": 1280, "height": 800}), [], []
    tab.on("console", lambda message: told.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: told.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(served.url)
    tab.locator("#map option").first.wait_for(state="attached")
    tab.locator("body[data-drawn]").wait_for(timeout=300_000)

    orange = (
        "id => { const c = document.getElementById(id);"
        " const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;"
        " for (let i = 0; i < d.length; i += 4) n += d[i] === 228 && d[i + 1] === 87 && d[i + 2] === 46;"
        " return n }"
    )
    assert tab.evaluate(orange, "scene") == 0
    tab.click("#more summary")
    tab.fill("#camera", LINE)
    name, truth = next(iter(wall_landmarks.queries.items()))
    tab.set_input_files("#choose", wall_landmarks.photos / name)
    tab.locator("body[data-state=placed]").wait_for(timeout=300_000)
    assert re.match(r"Placed by \d+ of \d+ keypoints\. Confidence [01]\.\d\d\.", tab.inner_text("#status"))
    position = [float(v) for v in tab.inner_text("#facts tr:first-child td:last-child").split()]
    assert np.allclose(position, camera_centre(truth), atol=0.005)
    for canvas in ("scene", "photo"):
        tab.wait_for_function(f"({orange})('{canvas}') > 50", timeout=300_000)
    for button in ("#same", "#above", "#oblique"):
        tab.click(button)
    tab.select_option("#map", "wall/head")
    tab.set_input_files("#take", wall_landmarks.photos / name)
    tab.locator("body[data-state=placed]").wait_for(timeout=300_000)
    tab.set_input_files("#choose", {"name": "<img src=x>.jpg", "mimeType": "image/jpeg", "buffer": b"no photo"})
    tab.locator("body[data-state=refused]").wait_for(timeout=300_000)
    assert "photo: image is damaged" in tab.inner_text("#status")
    tab.set_viewport_size({"width": 380, "height": 700})  # a phone
    assert tab.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    assert all(url.startswith((served.url, "data:", "blob:")) for url in asked), asked
    assert [text for text in told if "422" not in text] == []  # the browser itself reports the refused photo
    tab.close()


def test_the_page_asks_for_the_token(wall_landmarks, browser):
    with serving({"wall": wall_landmarks.map}, token="correct horse") as closed:
        tab = browser.new_page()
        tab.goto(closed.url)
        tab.locator("#token").wait_for(timeout=300_000)
        tab.fill("#token", "correct horse")
        tab.press("#token", "Enter")
        tab.locator("#map option").first.wait_for(state="attached")
        tab.goto(f"{closed.url}/#token=correct%20horse")
        tab.locator("#map option").first.wait_for(state="attached")
        tab.close()
