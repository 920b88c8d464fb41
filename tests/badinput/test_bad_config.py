"""Config files that cannot be meant: one line that names file and key."""

from __future__ import annotations

import pytest
from bad import Bad, changed, message

CONFIG, PAPERS = "config", "papers"
SCENE, METHOD, COMMON = "scenes/tiny.yaml", "methods/quick.yaml", "config.yaml"

OWN_ENCODING = "description: d\nencoder: small\nretrieval: vlad\nglobal_encoding: {name: vlad}\n"


def appended(name: str, text: str):
    return changed(CONFIG, name, lambda data: data + text.encode())


def instead(name: str, text: bytes | str):
    return changed(CONFIG, name, lambda data: text.encode() if isinstance(text, str) else text)


def without(key: str, name: str):
    return changed(
        CONFIG, name, lambda data: b"\n".join(r for r in data.split(b"\n") if not r.startswith(key.encode()))
    )


def bombs(levels: int) -> str:
    """An alias of ten aliases of ten aliases ..."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


def gone(sound, folder):
    out = changed(CONFIG, COMMON, bytes)(sound, folder)
    (out / COMMON).unlink()
    return out


CASES = [
    Bad("config: an unknown key", CONFIG, appended(METHOD, "colour: blue\n"), r"quick\.yaml: key colour: extra inputs"),
    Bad("config: a key in the wrong place", CONFIG, appended(METHOD, "steps: 5\n"), r"quick\.yaml: key steps"),
    Bad("config: a key twice", CONFIG, appended(METHOD, "encoder: small\n"), r"quick\.yaml: .*encoder.* twice"),
    Bad("config: a word for a number", CONFIG, appended(METHOD, "training: {steps: many}\n"), "key training.steps"),
    Bad("config: a number out of its range", CONFIG, appended(METHOD, "head: {width: -8}\n"), "key head.width"),
    Bad("config: not a number", CONFIG, appended(METHOD, "training: {lr_max: .nan}\n"), "key training.lr_max"),
    Bad("config: without end", CONFIG, appended(METHOD, "training: {lr_max: .inf}\n"), "key training.lr_max"),
    Bad("config: a list for keys", CONFIG, instead(METHOD, "- a\n- b\n"), "expected keys and values, found list"),
    Bad("config: a key that is a number", CONFIG, appended(METHOD, "7: x\n"), r"quick\.yaml: key 7"),
    Bad("config: a key is missing", CONFIG, without("encoder", METHOD), "key encoder: field required"),
    Bad("config: an empty file", CONFIG, instead(SCENE, ""), r"tiny\.yaml: key description: field required"),
    Bad("config: a file is missing", CONFIG, gone, r"config\.yaml: no such config file"),
    Bad("config: tabs", CONFIG, appended(METHOD, "head:\n\twidth: 8\n"), r"quick\.yaml: not YAML: .*'\\t'"),
    Bad("config: random bytes", CONFIG, instead(METHOD, bytes(range(256))), r"quick\.yaml: (not YAML|cannot be read)"),
    Bad(
        "config: a YAML tag that makes an object",
        CONFIG,
        appended(METHOD, "x: !!python/object/apply:os.system [ls]\n"),
        "not YAML: could not determine a constructor for the tag",
    ),
    Bad("config: aliases of aliases", CONFIG, instead(METHOD, bombs(12)), r"quick\.yaml: "),
    Bad("config: an alias of itself", CONFIG, appended(METHOD, "head: &h\n  width: *h\n"), r"quick\.yaml: "),
    Bad("config: 20 000 brackets", CONFIG, instead(METHOD, "a: " + "[" * 20_000), r"quick\.yaml: "),
    Bad("config: two documents", CONFIG, appended(METHOD, "---\na: 1\n"), r"quick\.yaml: not YAML"),
    Bad("config: a date that is none", CONFIG, appended(METHOD, "seed: 2020-99-99\n"), r"quick\.yaml: "),
    Bad("config: a number of 5 000 digits", CONFIG, appended(METHOD, f"seed: {'9' * 5000}\n"), r"quick\.yaml: "),
    Bad("config: extends in a circle", CONFIG, appended(METHOD, "extends: quick\n"), "extends runs in a circle"),
    Bad("config: extends nothing", CONFIG, appended(METHOD, "extends: none-such\n"), "no methods named 'none-such'"),
    Bad("config: extends a list", CONFIG, appended(METHOD, "extends: [quick]\n"), r"quick\.yaml: key extends"),
    Bad(
        "config: a method that is not there", CONFIG, appended(SCENE, "graph: none-such\n"), "key graph: no 'none-such'"
    ),
    Bad("config: impossible together", CONFIG, appended(METHOD, "global_encoding: {name: vlad}\n"), "needs retrieval"),
    Bad(
        "config: ten hypotheses where there is one",
        CONFIG,
        instead(METHOD, f"{OWN_ENCODING}localize: {{hypotheses: 10}}\n"),
        r"quick\.yaml: key localize\.hypotheses: 10, .* its own 'vlad', so there is one: set 1",
    ),
    Bad(
        "config: stop early without held-out photos",
        CONFIG,
        appended(METHOD, "training: {early_stop: {}}\n"),
        "early_stop needs holdout",
    ),
    Bad(
        "config: two splits",
        CONFIG,
        changed(CONFIG, SCENE, lambda b: b.replace(b"every: 2", b"every: 2\n  mapping: a.txt")),
        "either every, or the lists",
    ),
    Bad(
        "config: attributes in a file's name",
        CONFIG,
        instead(COMMON, "retrieval: {h: {kind: hloc, file: '{scene.__class__}.h5'}}\n"),
        "config.yaml: key retrieval.h",
    ),
    Bad(
        "config: attributes in a depth map's name",
        CONFIG,
        appended(SCENE, "depth_maps: {pattern: '{stem.__class__}.png', max_depth: 5}\n"),
        "key depth_maps.pattern",
    ),
    Bad(
        "config: a depth map's name of 10^9 blanks",
        CONFIG,
        appended(SCENE, "depth_maps: {pattern: '{stem:>999999999}.png', max_depth: 5}\n"),
        "key depth_maps.pattern",
    ),
    Bad(
        "config: a download by http",
        CONFIG,
        appended(SCENE, "download: {archives: [{url: 'http://a.org/b.zip'}]}\n"),
        "key download.archives.0.url",
    ),
    Bad(
        "config: a scene outside of the data",
        CONFIG,
        changed(CONFIG, SCENE, lambda b: b.replace(b"reader: colmap", b"reader: colmap\n  model: 5")),
        "key source.colmap.model",
    ),
    Bad(
        "papers: a key twice",
        PAPERS,
        changed(PAPERS, "one.yaml", lambda b: b + b"name: Q\n"),
        "key 'name' is there twice",
    ),
    Bad("papers: an unknown key", PAPERS, changed(PAPERS, "one.yaml", lambda b: b + b"pages: 5\n"), "key pages"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_bad_config(case, confined, sound, tmp_path):
    message(case, confined, sound, tmp_path)
