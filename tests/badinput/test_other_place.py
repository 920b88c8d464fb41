"""Photos of another place: what comes out is no pose that anybody would believe."""

from pathlib import Path

from PIL import Image
from plane_map import CAMERA_LINE

from scrflow.localize.localizer import Localizer

REPO = Path(__file__).resolve().parents[2]


def test_photos_of_another_place_are_not_believed(wall_map):
    """A map of a painted wall is asked for the demo's streets: each photo is lost or under 0.05; its own are not.

    Measured on the demo's map with 12 photos of fox, herzjesu and redkitchen: 0.0003 to 0.0095; four of its own: 0.26
    to 0.42 (docs/bad-input.md).
    """
    localizer = Localizer.open(wall_map.map, "cpu")
    own = [localizer.localize(wall_map.photos / name, CAMERA_LINE).confidence for name in wall_map.queries]
    strangers = []
    for path in sorted((REPO / "demo/images/day").iterdir())[::6][:6]:
        photo = Image.open(path).convert("RGB").resize((320, 240))
        strangers.append(localizer.localize(photo, CAMERA_LINE).confidence)
    assert len(strangers) == 6 and max(strangers) < 0.05, strangers
    assert min(own) > 0.05, own
