"""Sensors of the simulated world, one file per kind."""
