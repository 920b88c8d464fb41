"""Errors, geometry, cameras, images, seeds, progress and threads: what every folder uses."""
