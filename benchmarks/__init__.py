"""Benchmarks: each file measures one thing against what a user would otherwise pick."""
