"""Tests of the perception package."""
