"""Landmarks: keypoints of mapping photos, matched, triangulated under known poses, chosen and quantised for a map."""
