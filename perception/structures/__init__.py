"""What flows between the parts: samples, batches, features and predictions."""

from perception.structures.batch import Batch, PointBatch
from perception.structures.features import BevMap, CameraViews, FusedFeatures, SensorFeatures
from perception.structures.predictions import Detections, Predictions
from perception.structures.sample import Boxes3D, CameraImages, PointCloud, Sample

__all__ = [
    "Batch",
    "BevMap",
    "Boxes3D",
    "CameraImages",
    "CameraViews",
    "Detections",
    "FusedFeatures",
    "PointBatch",
    "PointCloud",
    "Predictions",
    "Sample",
    "SensorFeatures",
]
