"""Faults on the real services: parts are killed or frozen in the middle of rollouts, and what follows is measured.

`python -m tests.faults` (`make faults`) runs the cases on a stack of its own, in var/faults/stack.
"""
