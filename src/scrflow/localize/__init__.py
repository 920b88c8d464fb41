"""From a map and a photo to a pose: hypotheses, the pose solver, confidence, several maps, batches of photos."""
