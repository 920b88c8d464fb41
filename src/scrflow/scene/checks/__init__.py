"""Checks of a scene before anything is built on it."""
