"""Training of the scene-specific head, from the samples of a buffer or of arrays."""
