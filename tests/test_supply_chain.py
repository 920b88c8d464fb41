"""Lock files, bill of materials and licences agree with the pins and the config."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from scrflow.config import MapStage
from scrflow.pipeline.project import Project

REPO = Path(__file__).resolve().parents[1]


def module(name: str):
    """A script of envs/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"envs_{name}", REPO / "envs" / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


lock = module("lock")


@pytest.fixture
def project() -> Project:
    return Project(REPO / "config")


@pytest.mark.parametrize("name", lock.PINS)
def test_locks_have_the_pins_and_digests_and_nothing_else(name):
    pinned, locked = lock.read_pins(REPO / lock.PINS[name]), lock.read_pins(REPO / name)
    if name == "envs/torch.lock":
        assert locked["torch"] == pinned["torch"] and not (set(locked) - {"torch"}) & set(pinned)
    elif name == "envs/serve.lock":
        assert locked.items() <= pinned.items() and {"fastapi", "pycolmap"} <= locked.keys(), "not current: make lock"
        assert not {"torch", "snakemake", "pandas"} & locked.keys()
    else:
        alone = {"setuptools"} if name == "envs/setuptools.lock" else set(pinned) - {"torch"}
        assert locked == {key: pinned[key] for key in alone}, "not current: make lock"
    assert set(lock.read_hashes(REPO / name)) == set(locked.items())
    # no address and no option of pip: a lock is read wherever pip's own configuration points
    form = r"(#.*|[\w.-]+==[\w.]+( ; [^\\]*)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?)"
    for line in (REPO / name).read_text().splitlines():
        assert re.fullmatch(form, line), line


def report(tmp_path: Path, **changes: str) -> Path:
    """Of pip, for PyPI's torch with one of the libraries that it brings."""
    hashes = lock.read_hashes(REPO / "envs/torch.lock")
    pins = lock.read_pins(REPO / "envs/torch.lock")
    installed = []
    for name in ("torch", "triton"):
        version = changes.get(f"{name}_version", pins[name])
        digest = changes.get(name) or min(hashes[name, pins[name]])
        archive = {"hash": f"sha256={digest}", "hashes": {"sha256": digest}}
        installed.append({"metadata": {"name": name, "version": version}, "download_info": {"archive_info": archive}})
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"version": "1", "install": installed}))
    return path


def test_what_comes_with_torch_is_held_against_the_lock(tmp_path, capsys):
    assert lock.main(["check", str(report(tmp_path))]) == 0
    assert lock.main(["check", str(report(tmp_path, torch="0" * 64))]) == 1
    assert f"error: torch {lock.read_pins(REPO / 'requirements.txt')['torch']}: SHA-256 000" in capsys.readouterr().err
    assert lock.main(["check", str(report(tmp_path, triton_version="0.0.1"))]) == 1
    assert lock.main(["check", str(report(tmp_path, torch="0" * 64, torch_version="2.13.0+cpu"))]) == 0
    assert "note: torch 2.13.0+cpu" in capsys.readouterr().out


def test_bill_of_materials_has_the_pins():
    bom = json.loads((REPO / "envs/sbom.json").read_text())
    found = {lock.normal(c["name"]): c["version"] for c in bom["components"]}
    assert found == lock.read_pins(REPO / "requirements.txt"), "not current: make sbom"
    refs = {c["bom-ref"] for c in bom["components"]} | {bom["metadata"]["component"]["bom-ref"]}
    assert {d["ref"] for d in bom["dependencies"]} == refs
    assert all(set(d["dependsOn"]) <= refs for d in bom["dependencies"])
    assert all(component["licenses"] for component in bom["components"])
    assert "serialNumber" not in bom and "timestamp" not in bom["metadata"], "the same pins give the same bytes"


def test_restrictions_go_into_the_map(project):
    assert project.restrictions("demo", "rscore-cpu") == ()
    found = project.restrictions("fox", "glace")
    assert [r.what for r in found] == ["scene fox", "encoder ace-16m", "retrieval feature r2former"]
    assert [r.commercial_use for r in found] == ["forbidden", "forbidden", "unknown"]
    stage = project.map_stage("fox", "glace")
    assert stage.restrictions == found
    assert MapStage.model_validate(stage.model_dump(mode="json")) == stage
    older = stage.model_dump(mode="json", exclude={"restrictions"})
    assert MapStage.model_validate(older).restrictions == (), "older maps are read"
    assert str(found[0]).startswith("scene fox: no commercial use (NVIDIA")
    assert not project.encoder_restrictions("xfeat")

    # own photos (a scene that is not downloaded and says nothing) are no restriction
    project.scenes["demo"] = project.scenes["demo"].model_copy(update={"commercial_use": "unknown"})
    assert project.restrictions("demo") == ()
