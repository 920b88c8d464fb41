"""One HTML file that shows a method on a scene: how good its map is, where it fails, and how it was made.

``page`` loads a run (``run.Run``), lets every section compute its numbers, figures and pictures, and fills page.html.
"""
