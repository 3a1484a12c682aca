"""The network edge: one small client per service, each behind an interface with a fake beside it."""
