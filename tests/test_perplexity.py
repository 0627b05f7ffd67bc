"""Perplexity: exp of summed nats over summed tokens, from what the job stored."""

import math

import numpy as np
import pytest

from evaluation.perplexity import corpus_score, missing_likelihoods, statistics

REFERENCES = [["a", "b"], ["c"], ["d"]]


def test_perplexity_is_weighted_by_tokens() -> None:
    """All nats over all tokens, not a mean of images or of references; failed images add nothing."""
    table = statistics([([2.0, 4.0], [2, 3]), ([9.0], [5]), None])
    assert table.tolist() == [[6.0, 5.0], [9.0, 5.0], [0.0, 0.0]]
    assert corpus_score(table.sum(axis=0)) == pytest.approx(math.exp(15 / 10))
    assert np.isnan(corpus_score(table)[2])


def test_a_uniform_network_has_the_perplexity_of_its_vocabulary() -> None:
    """A network that knows nothing of V words has perplexity V."""
    assert corpus_score(statistics([([7 * math.log(50)], [7]), ([3 * math.log(50)], [3])]).sum(axis=0)) == pytest.approx(50)


def test_missing_likelihoods_name_the_command_that_stores_them() -> None:
    """Without likelihoods, or with those of other references, one sentence says which command helps."""
    fitting = [([1.0, 2.0], [1, 2]), None, ([3.0], [4])]
    assert missing_likelihoods(fitting, REFERENCES) is None
    assert "capt-batch run SOURCE --references REFS" in str(missing_likelihoods([None, None, None], REFERENCES))
    assert "belong to other references" in str(missing_likelihoods([([1.0], [1]), None, None], REFERENCES))
