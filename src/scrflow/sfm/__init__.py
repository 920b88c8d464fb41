"""Everything that calls COLMAP: structure from motion, and triangulation on known poses."""
