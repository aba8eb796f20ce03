"""From detections to tracks: the same object keeps one number from moment to moment."""
