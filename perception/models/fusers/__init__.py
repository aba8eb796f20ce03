"""Features of several sensors -> one map per level."""
