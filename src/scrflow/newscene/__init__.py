"""``scrflow new-scene``: a scene's config from a look at a folder of photos, a model or a video."""

from scrflow.newscene.draft import Draft, draft_scene, new_scene
from scrflow.newscene.queries import NewScene

__all__ = ["Draft", "NewScene", "draft_scene", "new_scene"]
