"""The simulated world: towns, traffic and sensors, written as data sets that other people's tools read."""
