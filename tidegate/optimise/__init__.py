"""A trained SavedModel becomes what is served: converted, then compared with the SavedModel on real rows."""
