"""Localization by feature matching, the baseline of the tables: hloc's scheme (Sarlin et al., CVPR 2019) on the stages
that are here anyway.

Mapping images that see the same are matched, tracks are triangulated on the known poses, and the map keeps points and
the descriptors of their observations. A query is matched with the mapping images that are retrieved for it, and its
pose is estimated from the points behind the matches.

``features`` of one photo, ``matchers`` of two, ``mapping`` the stage that makes a map, ``mapfile`` the map's file,
``describe`` a query for retrieval, ``localizer`` the stage that localizes.
"""
