"""Detectors over any subset of sensors: encoders, views, fusers, necks, heads and losses; one part per file."""
