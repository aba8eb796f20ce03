"""Towns drawn from a seed: roads, lanes, buildings, plants and street furniture, with their vector map."""

from perception.simulation.town.build import build_town
from perception.simulation.town.districts import LOCATIONS
from perception.simulation.town.town import KERB_HEIGHT_M, LANDSCAPES, Landscape, Lane, Town

__all__ = ["KERB_HEIGHT_M", "LANDSCAPES", "LOCATIONS", "Landscape", "Lane", "Town", "build_town"]
