"""The date of a report, which can be fixed so that the same inputs give the same bytes.

In: what the user asked for, and the environment. Out: ISO 8601. Apart, because the rule of SOURCE_DATE_EPOCH is one of its own
(https://reproducible-builds.org/specs/source-date-epoch/).
"""

from collections.abc import Mapping
from datetime import UTC, datetime

from capt.errors import InputError

VARIABLE = "SOURCE_DATE_EPOCH"


def report_date(wanted: str | None, environment: Mapping[str, str]) -> str:
    """Choose the date.

    Args:
        wanted: ISO 8601, or None.
        environment: Names seconds since 1970 under SOURCE_DATE_EPOCH.

    Returns:
        The date wanted as it was written, else that of the environment, else now; the last two in UTC.

    Raises:
        InputError: If it is no date.
    """
    if wanted is not None:
        try:
            datetime.fromisoformat(wanted)
        except ValueError as error:
            message = f"{wanted!r} is no date: write --date as 2026-01-31 or 2026-01-31T12:00:00+00:00"
            raise InputError(message) from error
        return wanted
    seconds = environment.get(VARIABLE)
    try:
        moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(int(seconds), UTC)
    except (ValueError, OverflowError, OSError) as error:
        message = f"{VARIABLE} is {seconds!r}, which is no number of seconds: set it right, or give --date"
        raise InputError(message) from error
    return moment.isoformat(timespec="seconds")
