"""Moves live traffic from a champion to a candidate, and back: the plan, and the actions under a lease."""
