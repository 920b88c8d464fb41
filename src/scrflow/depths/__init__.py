"""Depths of training samples: matched and triangulated, from SfM points, or from depth images."""
