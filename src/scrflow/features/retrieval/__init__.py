"""Retrieval: which mapping images show what a photo shows."""
