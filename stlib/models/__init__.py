"""Forecasters: ``(B, T, C, *S)`` in, ``(B, horizon, C, *S)`` out, one idea a file."""
