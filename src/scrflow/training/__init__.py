"""Training of the scene-specific head, from the samples of a buffer or of arrays.

It needs torch, numpy, scipy, h5py, safetensors and pydantic alone, so that the source and the artifacts are enough on a
GPU machine.
"""
