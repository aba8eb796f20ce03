import math
from pathlib import Path

import numpy as np
import torch

from perception.formats.submission import SampleDetections, SubmissionMeta, write_submission
from perception.formats.submission_reader import read_submission
from perception.geometry.transforms import rigid, yaw_matrix
from perception.visualization.submissions import detections_in_ego, rows_by_token


def test_submitted_boxes_come_back_in_the_ego_frame(tmp_path: Path) -> None:
    """The vehicle stands at (100, 50) and looks along +y of the global frame."""
    boxes_global = np.array(
        [
            [100.0, 60, 1, 4, 2, 1.5, math.pi / 2, 0, 3],  # 10 m ahead, the same heading, driving ahead
            [97.0, 50, 1, 1, 2, 3.0, math.pi, -1, 0],  # 3 m to the left, looking and walking left
        ]
    )
    found = SampleDetections(boxes_global=boxes_global, scores=np.array([0.2, 0.7]), labels=np.array([0, 5]))
    empty = SampleDetections(boxes_global=np.zeros((0, 9)), scores=np.zeros(0), labels=np.zeros(0, dtype=np.int64))
    path = tmp_path / "results.json"
    write_submission(path, [("empty", empty), ("token", found)], SubmissionMeta(True, False, False))
    submission = read_submission(path)
    rows = rows_by_token(submission)
    assert rows == {"empty": slice(0, 0), "token": slice(0, 2)}
    translation = torch.tensor([100.0, 50, 0], dtype=torch.float64)
    quarter_turn = yaw_matrix(torch.tensor(math.pi / 2, dtype=torch.float64))[:3, :3]
    detections = detections_in_ego(submission, rows["token"], rigid(quarter_turn, translation))
    expected = [[0, 3, 1, 1, 2, 3, math.pi / 2, 0, 1], [10, 0, 1, 4, 2, 1.5, 0, 3, 0]]  # the better score first
    np.testing.assert_allclose(detections.boxes.numpy(), expected, atol=1e-5)
    assert detections.labels.tolist() == [5, 0]
    assert len(detections_in_ego(submission, rows["empty"], rigid(quarter_turn, translation))) == 0
