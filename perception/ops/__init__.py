"""Ops: one file each, with a compiled kernel where it pays and a plain-torch reference always.

Import an op from its file: `from perception.ops.bev_pool import bev_pool`.
"""
