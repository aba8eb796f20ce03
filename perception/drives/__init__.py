"""Recorded drives: read as a stream of samples, run through a detector, written down."""
