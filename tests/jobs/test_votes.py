"""Votes are kept with the run, and their interval is Wilson's."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from studio.core.paths import RunPaths
from studio.jobs.votes import add_vote, count_votes, wilson_interval


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (3, 10), (10, 10), (57, 120)])
def test_the_interval_is_scipys(successes, trials):
    expected = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert wilson_interval(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_votes_add_up_and_ties_decide_nothing(tmp_path):
    paths = RunPaths(tmp_path)
    assert count_votes(paths).summary == "0 better, 0 worse, 0 tied."
    for verdict in ("better", "tie", "better", "worse"):
        tally = add_vote(paths, verdict, "q", blind=True)
    assert (tally.better, tally.worse, tally.tie) == (2, 1, 1)
    assert "better in 67 % of decided votes (95 % interval 21 % to 94 %)" in tally.summary
