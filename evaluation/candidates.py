"""What a command that compares is given: scores already on disk, or captions that are scored here first.

In: a path, and for captions the references. Out: an Evaluation. Apart, because `compare` and `gate` take the same things and must
read them in the same way.
"""

from pathlib import Path

from capt.errors import InputError
from evaluation.evaluate import evaluate
from evaluation.pairs import join, load_captions, load_references
from evaluation.scores import Evaluation
from evaluation.stored import is_scored, load


def open_evaluation(
    path: Path, *, references: Path | None = None, split: str | None = None, images: Path | None = None
) -> Evaluation:
    """Read scores, or score captions.

    Args:
        path: What `capt-eval score -o` wrote (folder or file), or captions in any form that `capt-eval score` takes.
        references: What captions are scored against; scores on disk keep their own.
        split: The split of the references to score.
        images: A list of the images to score, one a line.

    Returns:
        The evaluation; nothing is written.

    Raises:
        InputError: If there is nothing to read, or captions come without references.
        JavaError: If captions are to be scored and Java fails.
    """
    exists = path.exists()
    if exists and is_scored(path):
        return load(path)
    if not exists or references is None:
        state = "holds no scores" if exists else "does not exist"
        message = f"{path} {state}: give what `capt-eval score -o` wrote, or captions together with --references"
        raise InputError(message)
    return evaluate(join(load_captions(path), load_references(references, split=split, images=images)))
