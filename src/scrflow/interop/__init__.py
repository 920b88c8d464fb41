"""hloc's files: local features, matches and global descriptors in its HDF5 layout."""
