"""Licences: what of a scene, an encoder or a retrieval feature may not be used commercially, or of what it is unknown.

The code's own licence is Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from scrflow.config.licence import Restriction
from scrflow.core.plugins import constant

if TYPE_CHECKING:
    from scrflow.pipeline.project import Project


def restrictions(project: Project, scene: str, method: str | None = None) -> tuple[Restriction, ...]:
    """Of a scene, and of a method's encoder and retrieval feature. A scene without licence that is not downloaded is of
    the user's own photos, and none."""
    return tuple(_found(project, scene, method))


def _found(project: Project, scene: str, method: str | None) -> Iterator[Restriction]:
    s = project.scene(scene)
    if s.commercial_use == "forbidden" or (s.commercial_use == "unknown" and s.download is not None):
        yield Restriction(what=f"scene {scene}", licence=s.licence, commercial_use=s.commercial_use)
    if method is None:
        return
    m = project.method(method)
    yield from encoder_restrictions(project, m.encoder)
    if m.retrieval is not None:
        for found in feature_restrictions(project, m.retrieval):
            if found.what != f"encoder {m.encoder}":
                yield found


def encoder_restrictions(project: Project, name: str) -> Iterator[Restriction]:
    e = project.encoders[name]
    if e.commercial_use != "allowed":
        yield Restriction(what=f"encoder {name}", licence=e.licence, commercial_use=e.commercial_use)


def descriptor_weights(name: str, options: dict[str, Any]) -> str:
    """The published weights (in weights_registry.yaml) that a network with these options takes."""
    defaults = constant("global descriptor", name, "DEFAULTS") or {}
    return constant("global descriptor", name, "WEIGHTS").format(**{**defaults, **options})


def feature_restrictions(project: Project, name: str) -> Iterator[Restriction]:
    """Of a retrieval feature: of the encoder that it aggregates, its network's weights, or its parts."""
    from scrflow.storage.weights import registry

    r = project.config.retrieval[name]
    if r.kind == "vlad":
        yield from encoder_restrictions(project, r.encoder)
    if r.kind == "network":
        weights = registry()[descriptor_weights(r.network, r.options)]
        if weights.commercial_use != "allowed":
            what, use = f"retrieval feature {name}", weights.commercial_use
            yield Restriction(what=what, licence=weights.licence, commercial_use=use)
    for part in r.parts:
        yield from feature_restrictions(project, part)
