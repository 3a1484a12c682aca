"""Holds a candidate against its limits on its own server, before it gets any traffic."""
