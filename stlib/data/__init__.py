"""Data sets, synthetic worlds, and the way from a data array to training windows."""
