"""Landmarks: keypoints of mapping photos matched, triangulated on the known poses, chosen and coded for a map."""
