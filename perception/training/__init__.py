"""Training: the module, the data, what is kept of a run, and the command line."""
