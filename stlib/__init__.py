"""stlib: learning from data in space and time, one idea a file."""

__version__ = "0.1.0"
