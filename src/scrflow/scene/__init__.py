"""The scene stage: readers of dataset forms, validation, and the one form that every later stage reads."""

from scrflow.scene.colmap_model import View
from scrflow.scene.model import Query, Scene, load_scene

__all__ = ["Query", "Scene", "View", "load_scene"]
