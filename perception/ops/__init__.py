"""Ops: one file each, with a compiled kernel where it pays and a plain-torch reference always."""
