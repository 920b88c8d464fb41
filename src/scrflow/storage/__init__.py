"""Files on disk: artifacts with their stamps, checksums, journals, downloads, and readers of untrusted files."""
