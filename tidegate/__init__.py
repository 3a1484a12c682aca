"""Tidegate delivers TensorFlow models to production in stages, and takes them back by itself."""
