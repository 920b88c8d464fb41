"""Load on a map's service: photos a second and latency for several numbers of clients, and memory over many requests.

    .venv/bin/python benchmarks/serve.py results/demo/landmarks/map.safetensors --requests 200 --memory 1000

Clients run on the same machine and take some of its time. Every client sends the next photo when it has the answer;
photos are the scene's queries with their cameras.
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import numpy as np
import psutil

from scrflow.scene.lists import query_line
from scrflow.scene.model import load_scene


def body_of(photo: bytes, camera: str, near: str | None) -> tuple[bytes, str]:
    mark = uuid.uuid4().hex
    texts = {"camera": camera} | ({} if near is None else {"near": near})
    parts = [f'Content-Disposition: form-data; name="{k}"\r\n\r\n{v}'.encode() for k, v in texts.items()]
    parts.append(b'Content-Disposition: form-data; name="photo"; filename="a.jpg"\r\n\r\n' + photo)
    body = b"".join(f"--{mark}\r\n".encode() + part + b"\r\n" for part in parts) + f"--{mark}--\r\n".encode()
    return body, f"multipart/form-data; boundary={mark}"


def load(port: int, bodies: list[tuple[bytes, str]], clients: int, requests: int) -> tuple[list[float], int, float]:
    """Seconds of each request, how many found a pose, and seconds in all."""
    seconds, posed, left, lock = [], [0], iter(range(requests)), threading.Lock()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                return
            body, kind = bodies[number % len(bodies)]
            began = time.perf_counter()
            connection.request("POST", "/localize", body, {"Content-Type": kind})
            response = connection.getresponse()
            answer = json.loads(response.read())
            if response.status != 200:
                raise SystemExit(f"status {response.status}: {answer}")
            with lock:
                seconds.append(time.perf_counter() - began)
                posed[0] += answer["cam_from_world"] is not None

    threads = [threading.Thread(target=client) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seconds, posed[0], time.perf_counter() - began


def cpu_s(service: psutil.Process) -> float:
    """Of the service and its workers."""
    return sum(sum(p.cpu_times()[:2]) for p in [service, *service.children(recursive=True)])


def memory_mb(service: psutil.Process) -> float:
    """Of the service and its workers: what each has for itself, and its share of what they share."""
    return sum(p.memory_full_info().pss for p in [service, *service.children(recursive=True)]) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("map", type=Path)
    parser.add_argument("--scene", type=Path, help="default: ../scene from the map's folder")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--requests", type=int, default=200, help="for each number of clients")
    parser.add_argument("--memory", type=int, default=0, help="further requests, with the memory after each tenth")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--port", type=int, default=8750)
    args = parser.parse_args()
    scene = load_scene(args.scene or args.map.resolve().parents[1] / "scene")
    bodies = []
    for query in scene.queries:
        photo = (scene.image_root / query.name).read_bytes()
        bodies.append(body_of(photo, query_line("", query.camera).strip(), None))
    command = [sys.executable, "-m", "scrflow", "serve", str(args.map), "--port", str(args.port)]
    running = subprocess.Popen([*command, "--workers", str(args.workers)], stdout=subprocess.PIPE, text=True)
    try:
        print(running.stdout.readline().strip(), f"({args.workers} workers, {os.cpu_count()} cores)")
        service = psutil.Process(running.pid)
        load(args.port, bodies, args.workers, 2 * args.workers)  # the first photos are slower
        print("| clients | photos a second | p50 | p95 | p99 | CPU ms a photo | with a pose |")
        print("|---" * 7 + "|")
        for clients in args.clients:
            before = cpu_s(service)
            seconds, posed, wall = load(args.port, bodies, clients, args.requests)
            cpu_ms = 1000 * (cpu_s(service) - before) / args.requests
            latency = " | ".join(f"{1000 * v:.0f} ms" for v in np.percentile(seconds, [50, 95, 99]))
            row = f"{clients} | {args.requests / wall:.1f} | {latency} | {cpu_ms:.0f} | {posed} of {args.requests}"
            print(f"| {row} |", flush=True)
        for tenth in range(11 if args.memory else 0):
            if tenth:
                load(args.port, bodies, 4, args.memory // 10)
            print(f"{tenth * (args.memory // 10)} requests: {memory_mb(service):.0f} MB", flush=True)
    finally:
        running.terminate()
        running.wait()


if __name__ == "__main__":
    main()
