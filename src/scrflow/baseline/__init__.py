"""Localization by feature matching in hloc's scheme (Sarlin et al., CVPR 2019), the baseline of the tables."""
