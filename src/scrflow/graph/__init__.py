"""Which mapping images see the same: covisibility, frustum overlap, and Node2Vec on the graph."""
