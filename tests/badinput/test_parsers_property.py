"""Parsers of text on any text: what comes out is valid, or ScrflowError in one line; what is written is read again."""

import json
import math
import random
import re
import shutil
from collections.abc import Callable

import numpy as np
import pycolmap
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from untrusted_readers import READERS, TEXTS

from scrflow.config.base import deep_merge
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import rotation_from_quaternion
from scrflow.pipeline.project import Project
from scrflow.scene.lists import pose_line, query_line, read_poses, read_query_list

# the same cases in every run: what others find becomes an example
steady = settings(
    derandomize=True, deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
names = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=20).filter(
    lambda n: n[0] not in '#"'
)
numbers = st.floats(-1e6, 1e6)
# words that parsers know, so that texts reach beyond the first line
_WORDS = (
    "NVM_V3|3|2|-1|0|1|1e999|nan|PINHOLE|FISH|# kapture format: 1.1|cam|camera|,|\t|db/0.png|1_0|٣|\x00|\x1b[31m|"
    '{|[|]|}|:|- |&a|*a|!!x|"'
)
words = st.sampled_from([*_WORDS.split("|"), "9" * 5000])
texts = st.lists(
    st.tuples(st.one_of(words, st.text(max_size=8)), st.sampled_from([" ", "\n", ", ", ""])), max_size=40
).map(lambda parts: "".join(word + gap for word, gap in parts))


def one_line(read: Callable[[], object]) -> object:
    """What was read, or None if it was refused in one printable line."""
    try:
        return read()
    except ScrflowError as error:
        text = str(error)
        assert text.isprintable() and len(text) <= 2000, text
        return None


# ---------------------------------------------------------------------------------------------------------- round trips


@steady
@given(names, st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: math.hypot(*q) > 0.1), st.tuples(*[numbers] * 3))
def test_a_written_pose_is_read(tmp_path, name, q, t):
    pose = np.column_stack([rotation_from_quaternion(np.array(q)), t])
    path = tmp_path / "poses.txt"
    path.write_text(pose_line(name, pose) + "\n", encoding="utf-8")
    found = read_poses(path)
    assert list(found) == [name]
    np.testing.assert_allclose(found[name], pose, atol=1e-12, rtol=1e-12)


@steady
@given(names, st.integers(1, 1 << 20), st.integers(1, 1 << 20), st.tuples(*[st.floats(0.01, 1e6)] * 4))
def test_a_written_query_is_read(tmp_path, name, width, height, params):
    camera = pycolmap.Camera(model="PINHOLE", width=width, height=height, params=params)
    path = tmp_path / "queries.txt"
    path.write_text(query_line(name, camera) + "\n", encoding="utf-8")
    found = read_query_list(path)
    assert list(found) == [name]
    assert (found[name].width, found[name].height, found[name].params.tolist()) == (width, height, list(params))


# ------------------------------------------------------------------------------------------------------------ any text


@pytest.mark.parametrize(("reader", "name"), TEXTS)
@steady
@given(texts, st.integers(0, 400))
@example("a 1e-200 0 0 0 0 0 0", 0)
@example(f"a PINHOLE {2**80} 2 1 1 1 1", 0)
@example("NVM_V3\n" + "9" * 5000, 0)
@example("9" * 5000, 400)
@example("[" * 100_000, 0)
@example("", 400)
def test_any_text_is_read_or_refused(tmp_path, sound, reader, name, text, at):
    """The text in place of what follows a byte of the sound file."""
    path = tmp_path / sound[reader].name
    if name:
        shutil.copytree(sound[reader], path, dirs_exist_ok=True)
    start = (sound[reader] / name).read_text(encoding="utf-8")[:at]
    (path / name).write_text(start + text, encoding="utf-8", newline="")
    one_line(lambda: READERS[reader](path))


PIECES = re.compile(r'-?\d+\.?\d*(?:e-?\d+)?|"[^"]*"|[][{},\n]|[a-z_]+')
SPOILT = ("null", "[]", "{}", '"x"', "-1", "0", "1e999", "1e308", "true", '"../../x"', "9" * 20, "nan", "", "\0", "a b")


@pytest.mark.parametrize(("reader", "name"), TEXTS)
def test_a_piece_of_text_may_be_anything(tmp_path, sound, reader, name):
    """A number, a word or a bracket of the sound file is replaced."""
    path = tmp_path / sound[reader].name
    if name:
        shutil.copytree(sound[reader], path)
    text, choose = (sound[reader] / name).read_text(encoding="utf-8"), random.Random(name)
    for _ in range(12):
        piece = choose.choice(list(PIECES.finditer(text)))
        changed = text[: piece.start()] + choose.choice(SPOILT) + text[piece.end() :]
        (path / name).write_text(changed, encoding="utf-8", newline="")
        one_line(lambda: READERS[reader](path))


def test_sound_files_are_read(sound):
    """Otherwise every text above would be refused for another reason."""
    for reader, _ in TEXTS:
        READERS[reader](sound[reader])


# --------------------------------------------------------------------------------------------------------------- config

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "quick", "extends", "steps", "head"]), inner, max_size=3)
    ),
    max_leaves=8,
)
trees = st.dictionaries(st.sampled_from("abc"), st.dictionaries(st.sampled_from("abc"), st.integers()), max_size=3)


@steady
@given(trees, trees)
def test_merging_keeps_what_is_on_top(base, over):
    before = json.dumps(base, sort_keys=True)
    merged = deep_merge(base, over)
    assert json.dumps(base, sort_keys=True) == before
    assert deep_merge(base, {}) == base and deep_merge(merged, over) == merged
    assert all(merged[key][k] == v for key, value in over.items() for k, v in value.items())


@steady
@given(st.dictionaries(st.sampled_from(["seed", "retrieval", "scenes", "methods", "encoders"]), values, max_size=3))
@example({"scenes": [1]})
@example({"methods": {"quick": 5}})
@example({"methods": {"quick": {"extends": ["quick"]}}})
@example({"methods": {"quick": None}})
def test_any_override_is_taken_or_refused(sound, over):
    one_line(lambda: Project(sound["config"], over))
