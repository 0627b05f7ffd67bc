"""What starts that share one output tell each other in its folder: what they agreed on, how it went, that it is being extended.

In: the folder of the shards. Out: small hidden files there, until the run is complete. Apart from the output, because a plain
run needs none.
"""

import json
import math
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from capt.captions import Fingerprint
from capt.errors import OutputError
from capt.files import write_whole
from capt.remote import Location, Remote

_AGREEMENT = ".agreement.json"
_SESSIONS = ".session-*.json"
_EXTENDING = ".extending"
_MOST_IMAGES = 2**63


def agree(folder: Location, fingerprint: Fingerprint) -> Fingerprint:
    """Let the first machine that begins decide what the run is made with, whatever `auto` came to on each.

    Args:
        folder: Of the shards; exists.
        fingerprint: What it would be made with here.

    Returns:
        What was decided: this, or what another machine has written before.

    Raises:
        OutputError: If it can be neither written nor read.
    """
    path = folder / _AGREEMENT
    decided = read_agreement(folder)
    if decided is not None:
        return decided
    try:
        _write_first(path, fingerprint.to_json())
    except OSError as error:
        message = f"{path} cannot be written ({error.strerror or error}); choose another --output."
        raise OutputError(message) from error
    return read_agreement(folder) or fingerprint


def _write_first(path: Location, text: str) -> None:
    """Write a file, whole, unless another machine has done so before; of an object, the last of two written at once stays."""
    if isinstance(path, Remote):
        write_whole(path, text.encode())
        return
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        with suppress(FileExistsError):
            try:
                path.hardlink_to(temporary)  # the one way that fails when another was quicker, also on network file systems
            except FileExistsError:
                raise
            except OSError:  # a file system without hard links
                with path.open("x", encoding="utf-8") as file:
                    file.write(text)
    finally:
        temporary.unlink(missing_ok=True)


def read_agreement(folder: Location) -> Fingerprint | None:
    """Read what was decided.

    Args:
        folder: Of the shards; need not exist.

    Returns:
        The fingerprint, or None where nothing was.

    Raises:
        OutputError: If it cannot be read.
    """
    path = folder / _AGREEMENT
    try:
        return Fingerprint.from_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError) as error:
        message = f"{path} cannot be read ({error}); remove it when no machine is writing there, and start again."
        raise OutputError(message) from error


def tell_session(folder: Location, report: Mapping[str, object]) -> None:
    """Leave word of how a machine's start went.

    Args:
        folder: Of the shards.
        report: What is to be known of it.

    Raises:
        OutputError: If it cannot be written.
    """
    write_whole(folder / f".session-{uuid.uuid4().hex}.json", json.dumps(dict(report)).encode())


def read_sessions(folder: Location) -> Sequence[Mapping[str, Any]]:
    """Read how the machines' starts went.

    Args:
        folder: Of the shards.

    Returns:
        Their reports, by the time at which they began; what cannot be read is left out.
    """
    sessions = []
    for path in folder.glob(_SESSIONS):
        with suppress(OSError, ValueError, RecursionError):
            sessions.append(json.loads(path.read_bytes()))
            json.dumps(sessions[-1], ensure_ascii=False, allow_nan=False).encode()
    return sorted(filter(_is_report, sessions), key=lambda each: str(each["started"]))


def _is_report(session: object) -> bool:
    """Whether what a file says is a report as `tell_session` writes it, in what is put together of all."""
    try:
        return (
            isinstance(session, dict)
            and all(datetime.fromisoformat(session[name]).tzinfo is not None for name in ("started", "finished"))
            and 0 <= int(session["captioned_in_last_session"]) < _MOST_IMAGES
            and all(math.isfinite(seconds) for seconds in session["stage_seconds"].values())
            and isinstance(session["source"], str)
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return False


def begin_extending(folder: Location) -> None:
    """Leave word that the shards are not, in their order, those of the source: until run.json says so, it must be known.

    Args:
        folder: Of the shards.

    Raises:
        OutputError: If it cannot be written.
    """
    write_whole(folder / _EXTENDING, b"")


def is_extending(folder: Location) -> bool:
    """Tell whether an extension has begun there that was not finished.

    Args:
        folder: Of the shards; need not exist.

    Returns:
        Whether it has.
    """
    return (folder / _EXTENDING).exists()


def forget(folder: Location) -> None:
    """Remove all of it: the run is complete, or begins anew.

    Args:
        folder: Of the shards.

    Raises:
        OSError: If something cannot be removed.
    """
    for path in (folder / _AGREEMENT, folder / _EXTENDING, *folder.glob(_SESSIONS)):
        path.unlink(missing_ok=True)
