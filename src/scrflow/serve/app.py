"""The service: POST /localize, GET /maps, /healthz, /metrics, /docs, and the page at /."""

import asyncio
import base64
import contextlib
import hashlib
import math
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import prometheus_client
import uvicorn
from fastapi import Depends, FastAPI, File, Form, HTTPException, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as AnyHTTPException

from scrflow import __version__
from scrflow.core.errors import ScrflowError
from scrflow.core.progress import log
from scrflow.serve.guard import CONNECTIONS, Guard, ImpatientProtocol
from scrflow.serve.pool import SHOWN_MATCHES, Busy, Crashed, Job, Overdue, Pool

_FAILED = "the photo could not be localized, and the service's log says why"
_LOCAL = ("127.0.0.1", "::1", "localhost")
_PROBLEMS = {
    401: "the token is missing or wrong",
    408: "the photo came too slowly",
    413: "the request is too large",
    422: "the photo or a text cannot be used; the message says why",
    500: "a bug: the service's log has it",
    503: "the queue is full; Retry-After says when to come again",
    504: "the photo took too long",
}


def serve(
    paths: tuple[Path, ...],
    host: str,
    port: int,
    token: str | None,
    open_to_all: bool,
    workers: int,
    queue: int,
    timeout_s: float,
    device: str | None,
) -> None:
    """Serve maps until the process is told to end. ScrflowError for maps that cannot be served, and for a host beyond
    this machine without a token, unless ``open_to_all``."""
    if host not in _LOCAL and token is None and not open_to_all:
        raise ScrflowError(
            f"--host {host}: others could use the service; give --token TOKEN (or SCRFLOW_TOKEN), or --no-token if all "
            "who reach it may"
        )
    if token is not None and len(token) < 8:
        raise ScrflowError("--token: give at least 8 characters")
    pool = Pool(names_of(paths), workers, queue, timeout_s, device)

    async def run() -> None:
        server = await server_of(pool, token)
        listening.listen()  # who reads the line may connect at once
        address, chosen = listening.getsockname()[:2]  # the port that is chosen for --port 0
        at = f"[{address}]" if ":" in address else address
        print(f"serving {', '.join(pool.maps)}: http://{at}:{chosen}/", flush=True)
        await server.serve([listening])

    with bound(host, port) as listening:
        asyncio.run(run())


def bound(host: str, port: int) -> socket.socket:
    """A socket at the address; ScrflowError if it cannot be had."""
    opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
    except OSError as error:
        opened.close()
        raise ScrflowError(f"--host {host} --port {port}: {error.strerror}; give another") from None
    return opened


async def server_of(pool: Pool, token: str | None) -> uvicorn.Server:
    """A server, whose workers are started. ScrflowError for maps that cannot be loaded."""
    try:
        await pool.start()
    except BaseException:
        pool.close()
        raise
    config = uvicorn.Config(
        service(pool, token),
        http=ImpatientProtocol,
        ws="none",
        limit_concurrency=CONNECTIONS,
        server_header=False,
        proxy_headers=False,
        log_level="warning",
        timeout_graceful_shutdown=math.ceil(pool.timeout_s),
    )
    return uvicorn.Server(config)


def names_of(paths: tuple[Path, ...]) -> dict[str, Path]:
    """Names for maps: the fewest last parts of their paths that tell them apart, without map.safetensors. ScrflowError
    for a map that is missing or named twice."""
    for path in paths:
        if not path.is_file():
            raise ScrflowError(f"{path}: map is missing; name a map.safetensors")
    resolved = [path.resolve() for path in paths]
    parts = [(p.parent if p.name == "map.safetensors" else p.with_suffix("")).parts for p in resolved]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-count:]).strip("/") for p in parts]
        if len(set(names)) == len(names):
            return dict(zip(names, resolved, strict=True))
    raise ScrflowError("MAP: a map is named twice; name each once")


def service(pool: Pool, token: str | None) -> FastAPI:
    """The ASGI application of a pool that is started; it ends the workers when it ends."""
    maps = pool.maps

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            pool.close()

    app = FastAPIOffline(
        title="scrflow",
        description="Photos in, poses out.",
        version=__version__,
        redoc_url=None,
        lifespan=lifespan,
        # only for the documentation, whose page can then send it: Guard checks it
        dependencies=[] if token is None else [Depends(HTTPBearer(auto_error=False))],
    )
    app.add_middleware(Guard, token=token)
    metrics = _Metrics(pool)

    @app.post(
        "/localize",
        response_model=Answer,
        responses={code: {"model": Problem, "description": text} for code, text in _PROBLEMS.items()},
    )
    async def localize(
        request: Request,
        photo: Annotated[UploadFile, File(description="JPEG, PNG, HEIC or WebP")],
        camera: Annotated[
            str | None,
            Form(description="MODEL WIDTH HEIGHT PARAMS..., as COLMAP has it. Without: EXIF, else estimated"),
        ] = None,
        near: Annotated[
            str | None,
            Form(description="X Y Z RADIUS, or X Y Z RADIUS DX DY DZ DEGREES: position and viewing direction, roughly"),
        ] = None,
        map: Annotated[str | None, Form(description="a name of /maps")] = None,
        matches: Annotated[bool, Form(description="also return inliers")] = False,
    ) -> Any:
        """Localize a photo."""
        job = Job(await photo.read(), camera or None, near or None, map or None, matches)
        with metrics.outcome() as outcome:
            try:
                reply = await pool.localize(job, request.is_disconnected)
            except Busy as busy:
                outcome.value = "busy"
                raise HTTPException(503, "the queue is full; try again", {"Retry-After": str(busy.retry_s)}) from None
            except Overdue:
                outcome.value = "overdue"
                raise HTTPException(504, "the photo took too long; send a smaller one, or try again") from None
            except Crashed:
                log.error("a worker ended while it localized a photo of %d bytes", len(job.photo))
                raise HTTPException(500, _FAILED) from None
            if reply is None:
                outcome.value = "gone"
                return Response(status_code=499)
            if reply.refused is not None:
                outcome.value = "refused"
                raise HTTPException(422, reply.refused)
            if reply.failed is not None:
                log.error("%s", reply.failed)
                raise HTTPException(500, _FAILED)
            outcome.value = "localized" if reply.answer["cam_from_world"] else "lost"
            return JSONResponse(reply.answer)

    @app.get("/maps", response_model=MapList)
    async def list_maps() -> Any:
        """The maps that are served."""
        listed = [{"name": n, **{k: v for k, v in about.items() if k != "scene"}} for n, about in maps.items()]
        return {"maps": listed, "routed": pool.routed}

    @app.get("/maps/{name:path}/scene", include_in_schema=False)
    async def scene(name: str) -> Response:
        """What the page draws of a map."""
        if name not in maps:
            raise HTTPException(404, "no such map; GET /maps lists them")
        return Response(maps[name]["scene"], media_type="application/json")

    @app.get("/healthz", response_model=Health)
    async def health(response: Response) -> Any:
        """Status 503 while no worker is ready."""
        response.status_code = 200 if pool.ready else 503
        return {"workers": pool.ready, "waiting": pool.waiting}

    @app.get("/metrics", include_in_schema=False)
    async def show_metrics() -> Response:
        return Response(prometheus_client.generate_latest(metrics.registry), media_type="text/plain; version=0.0.4")

    page, policy = _page()

    @app.get("/", include_in_schema=False)
    async def show_page() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"})

    @app.exception_handler(AnyHTTPException)
    async def problem(_: Request, error: AnyHTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def bug(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": _FAILED}, 500)  # uvicorn logs it

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg']}"}, 422)

    return app


def _page() -> tuple[str, str]:
    """The page, and the policy that lets the browser run only the script in it."""
    page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")

    def sources(tag: str) -> str:
        texts = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(t.encode()).digest()).decode()}'" for t in texts)

    policy = f"default-src 'none'; script-src {sources('script')}; style-src {sources('style')}; "
    return page, policy + "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'"


class _Metrics:
    """Numbers for Prometheus."""

    def __init__(self, pool: Pool):
        self.registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self.registry)
        self._photos = prometheus_client.Counter(
            "scrflow_photos", "photos by what came of them", ["outcome"], registry=self.registry
        )
        self._seconds = prometheus_client.Histogram(
            "scrflow_localize_seconds",
            "from a photo's arrival to its answer",
            registry=self.registry,
            buckets=(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
        )
        for name, text, of in (
            ("workers", "workers that are ready or busy", lambda: pool.ready),
            ("waiting", "photos in the queue", lambda: pool.waiting),
            ("worker_restarts", "workers started again, since the service began", lambda: pool.restarts),
        ):
            prometheus_client.Gauge(f"scrflow_{name}", text, registry=self.registry).set_function(of)

    @contextlib.contextmanager
    def outcome(self) -> Any:
        """Count a photo and its time, by the value that the block sets."""
        outcome = SimpleNamespace(value="failed")
        with self._seconds.time():
            try:
                yield outcome
            finally:
                self._photos.labels(outcome.value).inc()


# -------------------------------------------------------------------------------------------------------- the answers


class Pose(BaseModel):
    """A rigid motion: X_to = R X_from + t. Cameras have OpenCV axes: x right, y down, z forward."""

    rotation_wxyz: tuple[float, float, float, float] = Field(description="R as a unit quaternion")
    translation: tuple[float, float, float] = Field(description="t, in the map's unit")


class Camera(BaseModel):
    """The camera that the pose rests on, as COLMAP has it."""

    model: str
    width: int
    height: int
    params: list[float]
    source: str = Field(description="given, exif, or estimated: found with the pose, by a prior of usual lenses")
    focal_spread: float | None = Field(None, description="relative standard deviation of an estimated focal length")


class Match(BaseModel):
    """A keypoint that agrees with the pose, and where it is in the world."""

    pixel: tuple[float, float] = Field(description="in the upright photo; the first pixel's centre is (0.5, 0.5)")
    xyz_world: tuple[float, float, float]


class Answer(BaseModel):
    """The result for a photo. A photo that cannot be localized has no pose, and a reason."""

    map: str
    unit: str = Field(description="of translations: m, or unit where the map's scale is not metric")
    cam_from_world: Pose | None = Field(description="world to camera, as in COLMAP")
    world_from_cam: Pose | None = Field(description="camera to world: its translation is the camera's centre")
    confidence: float | None = Field(description="probability that the pose is within the map's finest threshold")
    covariance: list[list[float]] | None = Field(
        description="6 x 6, of small motions of the camera in its own axes: translation, rotation (radians)"
    )
    reason: str | None = Field(description="why there is no pose")
    inliers: int
    keypoints: int
    camera: Camera
    turned: int = Field(description="degrees clockwise that the photo had to be turned; pose and camera are as sent")
    ms: dict[str, float] = Field(description="milliseconds of each part, and in total")
    matches: list[Match] | None = Field(None, description=f"at most {SHOWN_MATCHES} inliers, if asked for")


class MapInfo(BaseModel):
    """A map that is served."""

    name: str
    kind: str = Field(description="head, landmarks, or both")
    unit: str
    mapping_photos: int
    megabytes: float
    thresholds: list[tuple[float, float]] = Field(description="distance and degrees, the finest first")


class MapList(BaseModel):
    """The maps that are served."""

    maps: list[MapInfo]
    routed: bool = Field(description="a photo without a map's name is tried with the maps that look most like it")


class Health(BaseModel):
    """Whether photos can be localized now."""

    workers: int = Field(description="that are ready or busy")
    waiting: int = Field(description="photos in the queue")


class Problem(BaseModel):
    """Why there is no answer, and what to do."""

    error: str
