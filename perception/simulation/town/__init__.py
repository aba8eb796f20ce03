"""Towns drawn from a seed: roads, lanes, buildings, plants and street furniture, with their vector map."""
