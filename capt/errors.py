"""Everything that can go wrong in a way a user can mend: CaptError and its kinds.

In: what happened. Out: one sentence that says what to do next. Apart, because both programs end on these and on nothing else.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from capt.shown import one_line

_MOST_SHOWN = 200  # characters of another library's message
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
_NO_THREAD = "can't start new thread"  # Python's own words; it has no kind of error for that
_LONGEST, _ENDING = 2000, 500  # characters of a sentence, and how many of its end are kept: there it says what to do
DEBUG = "CAPT_DEBUG"  # environment variable; when set, an unforeseen error shows its traceback


class CaptError(Exception):
    """What ends a run, told in one sentence that says what to do next.

    Whatever names and values are in the sentence, it is one printable line of bounded length.

    Attributes:
        during_work: Whether work had begun; decides the exit code.
    """

    during_work = False

    def __init__(self, message: str) -> None:
        """Keep the sentence.

        Args:
            message: May quote what somebody else wrote.
        """
        said = one_line(message)
        super().__init__(said if len(said) <= _LONGEST else f"{said[: _LONGEST - _ENDING]} … {said[-_ENDING:]}")


@contextmanager
def at_work() -> Iterator[None]:
    """Mark every CaptError that passes as one that ended work already begun."""
    try:
        yield
    except CaptError as error:
        error.during_work = True
        raise


class InputError(CaptError):
    """Something the user gave cannot be used: a source, a manifest, references, word vectors, an option."""


class OutputError(CaptError):
    """The output cannot be written, or belongs to another run."""


class CheckpointError(CaptError):
    """A checkpoint cannot be read, or was made for another version."""


class WeightsError(CaptError):
    """Pretrained weights are neither on disk nor within reach."""


class FailureKind(StrEnum):
    """Why one image could not be captioned; the word before the colon in the `error` column."""

    NOT_FOUND = "not_found"
    UNREADABLE = "unreadable"
    EMPTY = "empty"
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    TOO_LARGE = "too_large"
    CORRUPT = "corrupt"
    NO_IMAGE = "no_image"
    TIMEOUT = "timeout"
    OUTSIDE = "outside"


class ImageError(CaptError):
    """One image cannot be captioned; it becomes a row with status `failed` and never ends a run."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        """Keep the kind apart from the sentence, for the summary that counts causes.

        Args:
            kind: The cause, one of a few.
            message: One sentence about this image.
        """
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = str(self).removeprefix(f"{kind}: ")

    def __reduce__(self) -> tuple[type["ImageError"], tuple[FailureKind, str]]:
        """Pickle by the two arguments, so that the error survives the way back from a worker process."""
        return type(self), (self.kind, self.message)


def first_line(error: BaseException) -> str:
    """Give what an error of a library says first; the rest is for its developers.

    Args:
        error: Any error.

    Returns:
        One line of at most 200 characters, never empty.
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0][:_MOST_SHOWN]


def unforeseen(error: Exception) -> str:
    """Tell of an error that nobody foresaw: a fault of capt's own, or of a machine without memory or descriptors.

    Args:
        error: Not a CaptError.

    Returns:
        One sentence that says what to do.
    """
    less = "free some, or ask for less at a time (--batch-size, --workers), and start again."
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return f"There is not enough memory; {less}"
    if isinstance(error, RuntimeError) and _NO_THREAD in str(error):
        return f"There is not enough memory for another thread, or there are too many of them; {less}"
    if isinstance(error, OSError) and error.errno in _NO_DESCRIPTORS:
        return "Too many open files; raise the limit (ulimit -n), and start again."
    what = f"{type(error).__name__}: {first_line(error)}"
    return f"An unforeseen error ended this ({what}); set {DEBUG}=1 to see where, and report it."
