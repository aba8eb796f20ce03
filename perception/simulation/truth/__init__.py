"""Ground truth of the simulated world: what there is, whether or not a sensor's noise lets it be seen."""
