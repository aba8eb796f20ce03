"""From a config and weights to predictions: built detectors, verified checkpoints, no training framework."""
