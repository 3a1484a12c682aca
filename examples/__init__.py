"""Worked deliveries on real data."""
