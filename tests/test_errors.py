"""Errors that a user sees: one sentence, and whether work had begun."""

import errno
import os
import pickle
import re

import pyarrow as pa
import pytest

from capt.errors import CaptError, FailureKind, ImageError, InputError, OutputError, at_work, unforeseen


def test_an_image_error_names_its_kind_first() -> None:
    """The word before the colon is what the summary counts."""
    error = ImageError(FailureKind.TRUNCATED, "the file ends too early")
    assert str(error) == "truncated: the file ends too early"
    assert error.kind is FailureKind.TRUNCATED
    assert error.message == "the file ends too early"


def test_an_image_error_survives_the_way_between_processes() -> None:
    """Pickled and back, kind and message are the same."""
    again = pickle.loads(pickle.dumps(ImageError(FailureKind.EMPTY, "no bytes")))  # noqa: S301 - written a moment ago
    assert (again.kind, again.message) == (FailureKind.EMPTY, "no bytes")


@pytest.mark.parametrize("kind", [CaptError, InputError, OutputError])
def test_an_error_knows_whether_work_had_begun(kind: type[CaptError]) -> None:
    """The exit code depends on it: 2 before work, 3 during."""
    sentence = "This cannot be."
    assert not kind(sentence).during_work
    with pytest.raises(kind) as caught, at_work():
        raise kind(sentence)
    assert caught.value.during_work
    assert not kind(sentence).during_work


def test_other_errors_pass_untouched() -> None:
    """What is a bug stays what it was."""
    with pytest.raises(ZeroDivisionError), at_work():
        _ = 1 / 0


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (pa.ArrowMemoryError("malloc of size 9 failed"), "not enough memory"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "not enough memory; free some"),
        (RuntimeError("can't start new thread"), "not enough memory for another thread"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "ulimit -n"),
        (ZeroDivisionError("division by zero"), r"unforeseen error .*ZeroDivisionError: division by zero.*report it"),
    ],
)
def test_a_machine_without_means_is_no_bug(error: Exception, sentence: str) -> None:
    """Memory and descriptors that are used up are said to be that, wherever they ran out; anything else is to be reported."""
    assert re.search(sentence, unforeseen(error))
