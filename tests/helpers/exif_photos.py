"""What is at hand (real photos, published weights), photos with EXIF, and a small COLMAP scene of demo photos."""

import os
import shutil
from pathlib import Path

import av
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from scrflow.core.errors import ScrflowError
from scrflow.scene.colmap_model import read_model
from scrflow.storage.weights import locate

DATA = Path(os.environ.get("SCRFLOW_DATA", "../shared/data")).absolute()
DEMO = Path(__file__).resolve().parents[2] / "demo"


def with_exif(source: Path, target: Path, size=(768, 512), top=None, **tags) -> Path:
    """A smaller copy with EXIF tags by number."""
    exif = Image.Exif()
    exif.update(top or {})
    exif.get_ifd(0x8769).update({int(tag.removeprefix("x"), 16): value for tag, value in tags.items()})
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as image:
        image.resize(size).save(target, exif=exif.tobytes())
    return target


F35, FOCAL, WIDTH, HEIGHT, PLANE_X, PLANE_Y, UNIT = "xA405", "x920A", "xA002", "xA003", "xA20E", "xA20F", "xA210"
FULL_FRAME = {FOCAL: IFDRational(50), PLANE_X: IFDRational(3072 * 254, 360), PLANE_Y: IFDRational(2048 * 254, 240)}
SMALLER = {**FULL_FRAME, WIDTH: 3072, HEIGHT: 2048, UNIT: 2}  # as a 3072x2048 photo made smaller keeps it
APPLE = {"top": {0x010F: "Apple", 0x0110: "iPhone 6"}}


def real(name: str) -> Path:
    """A folder of real photos; the test is skipped where it is not there."""
    if not (DATA / name).is_dir():
        pytest.skip(f"real photos are not at hand ({DATA / name})")
    return DATA / name


def weights_at_hand(*names: str) -> None:
    """Skips the test where published weights are missing, or not what they should be."""
    try:
        for name in names:
            locate(name)
    except ScrflowError as error:
        pytest.skip(f"published weights are not at hand: {error}")


@pytest.fixture(scope="session")
def photo() -> Path:
    """A real photo."""
    return real("herzjesu") / "images/0000.jpg"


def some_photos(source: Path, target: Path, count: int, width: int) -> Path:
    """The first photos of a folder, made small, as a folder ``images`` of their own."""
    (target / "images").mkdir(parents=True)
    for path in sorted(source.glob("*.jpg"))[:count]:
        with Image.open(path) as image:
            size = (width, round(image.height * width / image.width))
            image.resize(size, Image.Resampling.LANCZOS).save(target / "images" / path.name, quality=95)
    return target


def write_video(path: Path, frames: list[Image.Image], rate: int) -> Path:
    """A video of so many frames a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt, stream.bit_rate = "yuv420p", 12_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    return path


@pytest.fixture
def colmap(tmp_path: Path) -> Path:
    """Ten demo images in COLMAP's usual layout: sparse/0 and images."""
    root = tmp_path / "place"
    model = read_model(DEMO / "model")
    keep = (DEMO / "mapping.txt").read_text().split()[:40:4]
    for image_id in list(model.reg_image_ids()):
        if model.image(image_id).name not in keep:
            model.deregister_frame(model.image(image_id).frame_id)
    (root / "sparse/0").mkdir(parents=True)
    model.write_binary(str(root / "sparse/0"))
    for name in keep:
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(DEMO / "images" / name, root / "images" / name)
    return root
