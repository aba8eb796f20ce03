"""Perception for a vehicle with many sensors, on one bird's-eye-view frame."""

__version__ = "0.1.0"
