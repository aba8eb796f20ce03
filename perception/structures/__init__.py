"""What flows between the parts: samples, batches, features and predictions."""

from perception.structures.batch import Batch, PointBatch
from perception.structures.features import BevMap, CameraViews, FusedFeatures, SensorFeatures
from perception.structures.predictions import (
    Detections,
    MapPrediction,
    NearFieldPrediction,
    OccupancyPrediction,
    Predictions,
)
from perception.structures.sample import Boxes3D, CameraImages, PointCloud, Sample
from perception.structures.sensors import RADAR4D_FIELDS, RADAR_FIELDS, EchoBatch, NearField, UltrasonicEchoes
from perception.structures.state import DetectorState, PartState
from perception.structures.truths import MapTruth, OccupancyTruth

__all__ = [
    "RADAR4D_FIELDS",
    "RADAR_FIELDS",
    "Batch",
    "BevMap",
    "Boxes3D",
    "CameraImages",
    "CameraViews",
    "Detections",
    "DetectorState",
    "EchoBatch",
    "FusedFeatures",
    "MapPrediction",
    "MapTruth",
    "NearField",
    "NearFieldPrediction",
    "OccupancyPrediction",
    "OccupancyTruth",
    "PartState",
    "PointBatch",
    "PointCloud",
    "Predictions",
    "Sample",
    "SensorFeatures",
    "UltrasonicEchoes",
]
