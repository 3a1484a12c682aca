"""A window in, a Slice out: each source is read once per window and published, raw, under one manifest."""
