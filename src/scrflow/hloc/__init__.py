"""Exchange with hloc (github.com/cvg/Hierarchical-Localization): its files are read as they are, and ours are its.

``features`` local features, ``matches`` matches and pair lists, ``poses`` results of localization, ``database``
features and matches into a COLMAP database, ``images`` the photos of a scene, ``export`` a scene in hloc's files.
Global descriptors are in ``scrflow.retrieval.hloc``; query lists are those of the scene artifact. See docs/hloc.md.

Nothing here needs hloc to be installed. Pixels are COLMAP's (centre of the top-left pixel at (0.5, 0.5)) on this side;
hloc's files have it at (0, 0), and the reading and writing functions convert.
"""
