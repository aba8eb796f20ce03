"""Bytes <-> arrays: file formats without policy."""
