"""Losses, as modules and functions of typed outputs."""
