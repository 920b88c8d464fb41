"""From photos to vectors: views, augmentation, PCA, local encoders, global descriptors, retrieval."""
