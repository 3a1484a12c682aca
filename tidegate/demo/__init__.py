"""The demonstration: the main job on the embedded stack, and its report."""
