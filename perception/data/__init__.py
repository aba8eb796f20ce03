"""From recorded or simulated files to samples and batches."""
