import numpy as np

from perception.geometry.headings import headings


def test_headings_are_angles_about_z() -> None:
    found = headings(np.array([[[1.0, 0.0, 9.0], [0.0, 2.0, 9.0]], [[-1.0, 0.0, 9.0], [1.0, -1.0, 9.0]]]))
    np.testing.assert_array_equal(found, [[0.0, np.pi / 2], [np.pi, -np.pi / 4]])
    assert headings(np.array([0.0, 2.0])).shape == ()


def test_the_bits_do_not_depend_on_where_arrays_lie() -> None:
    # Of 570 sizes about 20 put the result of a plain arctan2 where it rounds in another way.
    rng = np.random.default_rng(0)
    for count in range(130, 700):
        poses = rng.normal(size=(count, 4, 4))
        expected = np.arctan2(poses[:, 1, 0].copy(), poses[:, 0, 0].copy())
        moved = poses @ np.eye(4)  # a buffer of its own, the result may come right behind it
        np.testing.assert_array_equal(headings(moved[:, :2, 0]), expected)
