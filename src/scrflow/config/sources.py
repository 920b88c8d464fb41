"""Where a scene comes from: ``reader`` names a module of scrflow/scene/readers, whose model has the other keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Union

from pydantic import Field, GetJsonSchemaHandler, PlainValidator, SerializeAsAny, TypeAdapter

from scrflow.config.base import Strict
from scrflow.core.plugins import load, plugins


class Source(Strict):
    """What every reader's model has."""

    part_of_a_scene: ClassVar[bool] = False  # whether poses stay in the frame of the scene that it is a part of
    reader: str

    def files(self, root: Path) -> list[Path]:
        """What makes another scene when it changes. Photos are known by their checksums in scene.json."""
        return []

    @property
    def parts(self) -> tuple[str, ...]:
        """Scenes whose artifacts it is made of."""
        return ()

    def has_points(self, root: Path) -> bool:
        """Whether its model has 3D points."""
        return False


def _by_reader(values: Any) -> Source:
    if isinstance(values, Source):
        return values
    reader = values.get("reader") if isinstance(values, dict) else None
    if reader not in plugins("reader"):
        raise ValueError(f"no reader {reader!r}; set source.reader to one of {', '.join(plugins('reader'))}")
    return load("reader", reader).SOURCE.model_validate(values)


class _AllReaders:
    @staticmethod
    def __get_pydantic_json_schema__(schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        models = tuple(load("reader", name).SOURCE for name in plugins("reader"))
        return handler(TypeAdapter(Annotated[Union[models], Field(discriminator="reader")]).core_schema)  # noqa: UP007


AnySource = Annotated[SerializeAsAny[Source], PlainValidator(_by_reader), _AllReaders]
