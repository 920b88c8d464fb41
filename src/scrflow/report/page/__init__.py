"""One HTML file that shows a method on a scene: how good its map is, where it fails, and how it was made."""
