"""``scrflow new-scene``: a scene's config from a look at a folder of photos, a model or a video."""

from scrflow.newscene.draft import Draft, NewScene, draft_scene, new_scene, write_scene_config

__all__ = ["Draft", "NewScene", "draft_scene", "new_scene", "write_scene_config"]
