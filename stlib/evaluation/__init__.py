"""Evaluation: every window, original units, and whether a difference is more than luck."""
