"""How good predictions are, measured by the official tools and by counts of our own."""
