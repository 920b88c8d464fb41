"""GLACE's toy example at a small size: the data, the table and the picture."""

from __future__ import annotations

from pathlib import Path

import plane_map
import pytest
import torch
from PIL import Image

from scrflow.config import ExtractorConfig, ToyConfig, ToyStage
from scrflow.report.stored import read_table
from scrflow.report.toy import WITH, WITHOUT, toy_data, write_toy


def test_samples_lie_in_their_photos(tmp_path):
    texture, paths = plane_map.wall(), [tmp_path / f"{i}.png" for i in range(4)]
    for i, path in enumerate(paths):
        texture.crop((100 * i, 50 * i, 100 * i + 320, 50 * i + 240)).save(path)
    extractor = ExtractorConfig(name="sift", max_keypoints=40)
    data = toy_data(ToyConfig(photos=4, columns=2, size=(160, 120), extractor=extractor), paths)
    assert torch.allclose(data.centres, torch.tensor([[-80.0, -60], [80, -60], [-80, 60], [80, 60]]))
    away = (data.pixel - data.centres[data.image]).abs()
    assert (away <= torch.tensor([80, 60])).all() and set(data.image.tolist()) == {0, 1, 2, 3}
    assert abs(float(data.descriptor.mean())) < 1e-4 and float(data.descriptor.std()) == pytest.approx(1, abs=1e-3)


def test_table_and_picture(tmp_path):
    scene, _ = plane_map.build_scene(tmp_path)
    plane = {"photos": 4, "columns": 2, "size": (320, 240), "extractor": {"name": "sift", "max_keypoints": 50}}
    toy = ToyConfig(scenes=("wall",), width=16, steps=10, batch_size=32, seeds=(1, 2), **plane)
    files = [tmp_path / f"glace-figure-8.{end}" for end in ("md", "csv", "tex", "png")]
    write_toy(ToyStage(toy=toy), [scene], Path("config/papers"), *files, 1)
    table = read_table(files[1])
    assert table.title == "glace-figure-8" and len(table.cells) == 2 * (2 + 4)
    for name in (WITHOUT, WITH):
        whole = table.cells[name, "wall", "all", "mean_absolute_error"]
        of_photos = [table.cells[name, "wall", f"photo {i}", "mean_absolute_error"].mean for i in range(1, 5)]
        assert whole.mean == pytest.approx(sum(of_photos) / 4, rel=1e-4) and whole.n == 2 and whole.spread > 0
    text = files[0].read_text()
    assert f"{table.cells[WITH, 'wall', 'all', 'mean_absolute_error'].mean:.2f} ±" in text
    assert "0.69 (of 19)" in text and "In the paper it is\n18 % lower." in text and "glace-figure-8.png" in text
    rows = [line for line in files[2].read_text().splitlines() if line.endswith(r"\\")]
    assert len(rows) == 3 and "0.69 (of 19)" in rows[1] and r"$\pm$" in rows[1]
    with Image.open(files[3]) as picture:
        assert picture.width > 1000
