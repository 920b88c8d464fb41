"""One HTML file that shows a method on a scene: how good its map is, where it fails, and how it was made.

Each section is a module with one function that takes the loaded run (``run.Run``) and gives a fragment of the page;
``page`` puts them together. Templates, style and script lie beside the modules that use them.
"""
