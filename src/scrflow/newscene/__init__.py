"""``scrflow new-scene``: a scene's config from a look at a folder of photos, a model or a video."""

from scrflow.newscene.command import new_scene
from scrflow.newscene.draft import Draft, draft_scene, write_scene_config
from scrflow.newscene.options import NewScene

__all__ = ["Draft", "NewScene", "draft_scene", "new_scene", "write_scene_config"]
