"""What is read from the fused map: network, targets, decoding."""
