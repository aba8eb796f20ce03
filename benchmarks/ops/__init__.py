"""Benchmarks of ops: each file has `run() -> list[Row]`."""
