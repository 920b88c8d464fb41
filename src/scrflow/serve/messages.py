"""What passes between clients, the service and its workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field

SHOWN_MATCHES = 1000


@dataclass(frozen=True)
class Job:
    """A photo to localize; texts are as the client sent them."""

    photo: bytes
    camera: str | None = None
    near: str | None = None
    map: str | None = None
    matches: bool = False


@dataclass(frozen=True)
class Reply:
    """One of the three is set."""

    answer: dict[str, Any] | None = None  # fields of an Answer
    refused: str | None = None  # the client's mistake, in one line
    failed: str | None = None  # a bug or a lack of memory: for the log alone


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
