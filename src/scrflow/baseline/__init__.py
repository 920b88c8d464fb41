"""Localization by feature matching in hloc's scheme (Sarlin et al., CVPR 2019), the baseline of the tables.

Mapping images that see the same are matched, tracks are triangulated on the known poses (``mapping``), and the map
keeps points and the descriptors of their observations (``mapfile``). A query is matched with the mapping images
retrieved for it, and its pose is estimated from the points behind the matches (``localizer``). ``hloc_*`` exchange
files with hloc itself.
"""
