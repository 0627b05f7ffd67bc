"""How `capt-batch` ends, as a number for whoever started it.

In: what ended the command. Out: its exit code. Apart, because the command line returns it and the event log tells it.
"""

from enum import IntEnum

from capt.errors import CaptError


class ExitCode(IntEnum):
    """How `capt-batch` ends, unless a signal ends it."""

    DONE = 0
    FAILED_IMAGES = 1
    USAGE = 2
    ERROR_DURING_WORK = 3


def exit_code(error: Exception) -> ExitCode:
    """Tell with which code an error ends the program.

    Args:
        error: A CaptError, or what nobody foresaw.

    Returns:
        2 before work, 3 during it; an unforeseen error counts as during work.
    """
    before_work = isinstance(error, CaptError) and not error.during_work
    return ExitCode.USAGE if before_work else ExitCode.ERROR_DURING_WORK
