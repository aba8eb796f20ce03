import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from perception.tracking.association import assign_greedy, assign_hungarian

INF = np.inf


def test_greedy_takes_the_cheapest_and_hungarian_the_least_sum():
    costs = np.array([[1.0, 2.0], [2.0, 9.0]])
    assert assign_greedy(costs).tolist() == [[0, 0], [1, 1]]  # 1 + 9
    assert assign_hungarian(costs).tolist() == [[0, 1], [1, 0]]  # 2 + 2


def test_hungarian_prefers_more_pairs_to_cheaper_ones():
    costs = np.array([[1.0, 50.0], [2.0, INF]])
    assert assign_greedy(costs).tolist() == [[0, 0]]
    assert assign_hungarian(costs).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("assign", [assign_greedy, assign_hungarian])
@pytest.mark.parametrize("costs", [np.zeros((0, 3)), np.zeros((2, 0)), np.full((2, 2), INF), np.full((2, 2), np.nan)])
def test_nothing_to_pair(assign, costs):
    assert assign(costs).shape == (0, 2)


@pytest.mark.parametrize("shape", [(1, 1), (4, 7), (9, 5), (30, 30)])
@pytest.mark.parametrize("share_allowed", [0.2, 0.6, 1.0])
def test_hungarian_agrees_with_scipy(shape, share_allowed):
    rng = np.random.default_rng(sum(shape))
    for _ in range(20):
        costs = rng.normal(scale=5, size=shape)  # negative ones too, as of likelihoods
        costs[rng.uniform(size=shape) > share_allowed] = INF
        pairs = assign_hungarian(costs)
        rows, columns = linear_sum_assignment(np.where(np.isfinite(costs), costs, 1e4))
        allowed = np.isfinite(costs[rows, columns])
        assert len(pairs) == allowed.sum()
        assert len(set(pairs[:, 1].tolist())) == len(pairs)
        assert costs[pairs[:, 0], pairs[:, 1]].sum() == pytest.approx(costs[rows, columns][allowed].sum())


def test_greedy_never_uses_a_row_or_column_twice():
    costs = np.random.default_rng(0).uniform(size=(20, 15))
    pairs = assign_greedy(costs)
    assert len(pairs) == 15
    assert len(set(pairs[:, 0].tolist())) == len(set(pairs[:, 1].tolist())) == 15


def test_of_equal_costs_the_first_in_the_table_goes_first():
    assert assign_greedy(np.ones((40, 50))).tolist() == [[number, number] for number in range(40)]
    assert assign_greedy(np.array([[2.0, 1.0, 1.0], [1.0, 1.0, 3.0]])).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("assign", [assign_greedy, assign_hungarian])
def test_what_is_not_a_number_is_left_out_and_the_table_stays_as_it_was(assign):
    costs = np.array([[np.nan, 5.0, INF], [1.0, np.nan, np.nan], [INF, INF, np.nan]])
    given = costs.copy()
    assert assign(costs).tolist() == [[0, 1], [1, 0]]
    np.testing.assert_array_equal(costs, given)
