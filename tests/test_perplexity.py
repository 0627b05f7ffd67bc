"""Perplexity: exp of summed nats over summed tokens, from what the job stored."""

import math

import numpy as np
import pytest

from evaluation.perplexity import Likelihood, corpus_score, missing_likelihoods, statistics, unknown_share

REFERENCES = [["a", "b"], ["c"], ["d"]]


def test_perplexity_is_weighted_by_tokens() -> None:
    """All nats over all tokens, not a mean of images or of references; failed images add nothing."""
    table = statistics([Likelihood(nll=[2.0, 4.0], tokens=[2, 3]), Likelihood(nll=[9.0], tokens=[5]), None])
    assert table.tolist() == [[6.0, 5.0], [9.0, 5.0], [0.0, 0.0]]
    assert corpus_score(table.sum(axis=0)) == pytest.approx(math.exp(15 / 10))
    assert np.isnan(corpus_score(table)[2])


def test_a_uniform_network_has_the_perplexity_of_its_vocabulary() -> None:
    """A network that knows nothing of V words has perplexity V."""
    likelihoods = [Likelihood(nll=[7 * math.log(50)], tokens=[7]), Likelihood(nll=[3 * math.log(50)], tokens=[3])]
    assert corpus_score(statistics(likelihoods).sum(axis=0)) == pytest.approx(50)


def test_missing_likelihoods_name_the_command_that_stores_them() -> None:
    """Without likelihoods, or with those of other references, one sentence says which command helps."""
    fitting = [Likelihood(nll=[1.0, 2.0], tokens=[1, 2]), None, Likelihood(nll=[3.0], tokens=[4])]
    assert missing_likelihoods(fitting, REFERENCES) is None
    assert "capt-batch run SOURCE --references REFS" in str(missing_likelihoods([None, None, None], REFERENCES))
    assert "belong to other references" in str(missing_likelihoods([Likelihood(nll=[1.0], tokens=[1]), None, None], REFERENCES))


def test_unknown_words_are_a_share_of_words() -> None:
    """`<end>` is a token and no word; a run that counted no unknown words, or has no words, gives no share."""
    first = Likelihood(nll=[1.0, 1.0], tokens=[4, 3], unknown=[2, 0])  # 3 and 2 words
    second = Likelihood(nll=[1.0], tokens=[6], unknown=[0])  # 5 words
    assert unknown_share([first, None, second]) == 2 / 10
    assert unknown_share([first, Likelihood(nll=[1.0], tokens=[6])]) is None
    assert unknown_share([None]) is None
