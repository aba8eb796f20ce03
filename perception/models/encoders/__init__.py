"""One encoder per sensor kind: raw data -> features."""
