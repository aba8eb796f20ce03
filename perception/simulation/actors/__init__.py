"""What moves and stands in the town: vehicles, people and small objects, each a mesh that fills its box."""
