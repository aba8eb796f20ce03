"""What works on maps between the encoders and the heads."""
