"""The baseline of a gate: one small parquet file that belongs into git, read and renewed.

In: its path, and the evaluation that shall take its place. Out: an Evaluation, or the file. Apart from gate.py, because this
touches the disk, and because nothing but `--update-baseline` may ever write here.
"""

from pathlib import Path

from capt.errors import InputError
from evaluation.scores import Evaluation
from evaluation.stored import load, save_file


def read_baseline(path: Path) -> Evaluation:
    """Read the baseline.

    Args:
        path: The file that `--update-baseline` wrote, or what `capt-eval score -o` did.

    Returns:
        The evaluation.

    Raises:
        InputError: If there is none, or it cannot be read.
    """
    if not path.exists():
        message = f"there is no baseline at {path}: make the candidate the first one with --update-baseline, and commit the file"
        raise InputError(message)
    return load(path)


def renew_baseline(candidate: Evaluation, path: Path) -> None:
    """Make the candidate the new baseline; the file holds ids, machine captions and statistics, and no human captions.

    Args:
        candidate: An evaluation of every image of its references.
        path: Its folder is made; the baseline there, which was read before, is replaced.

    Raises:
        InputError: If the candidate is a partial evaluation, or the path is a folder.
        OutputError: If it cannot be written.
    """
    if missing := candidate.conditions.get("images_missing"):
        message = (
            f"{missing} images of the references have no caption, and a baseline must not be partial: caption them, or score"
            " against a list of the images that count with --images"
        )
        raise InputError(message)
    if path.is_dir():
        message = f"{path} is a folder, and a baseline is one file: give a name such as {path / 'baseline.parquet'}"
        raise InputError(message)
    save_file(candidate, path)
