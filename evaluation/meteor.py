"""METEOR 1.5 in its own process: started early, asked once, always ended.

In: tokens of captions and references. Out: the jar's scores and its 23 statistics per image, from which the corpus score
follows. Apart from metrics.py, because it is a program to be started, fed, timed and killed; pycocoevalcap's own wrapper hangs
for ever after any error.
"""

import queue
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO

import numpy as np
from numpy.typing import NDArray

from evaluation.java import METEOR_DATA, METEOR_HEAP, METEOR_JAR, Java, JavaError, find_jar

STATISTICS = (
    "test_length",
    "reference_length",
    "test_function_words",
    "reference_function_words",
    *(
        f"{stage}_{side}_{kind}_matches"
        for stage in ("exact", "stem", "synonym", "paraphrase")
        for kind in ("content", "function")
        for side in ("test", "reference")
    ),
    "chunks",
    "test_word_matches",
    "reference_word_matches",
)
_CHUNKS = STATISTICS.index("chunks")
ANSWER_SECONDS = 120.0  # the longest wait for one answer; the first one includes loading 60 MB of paraphrases

_STAGE_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # of exact, stem, synonym, paraphrase matches
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75


class MeteorProcess:
    """The running jar. Made by `meteor_process`, which ends it."""

    def __init__(self, process: "subprocess.Popen[bytes]", errors: IO[bytes], *, answer_seconds: float) -> None:
        """Take over a started process.

        Args:
            process: Java with its standard input and output as pipes.
            errors: The file that takes what it says on standard error.
            answer_seconds: The longest wait for one line.
        """
        self._process = process
        self._errors = errors
        self._answer_seconds = answer_seconds
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def score(
        self, captions: Sequence[str], references: Sequence[Sequence[str]]
    ) -> tuple[float, list[float], NDArray[np.float64]]:
        """Score captions as pycocoevalcap does.

        Args:
            captions: Tokens, N.
            references: Tokens, N lists.

        Returns:
            The corpus score, N scores of single images, and the statistics `(N, 23)`; scores between 0 and 1.

        Raises:
            JavaError: If the process ends, falls silent, or answers what is no number.
        """
        pairs = zip(captions, references, strict=True)
        self._ask([" ||| ".join(("SCORE", *map(_safe, texts), _safe(caption))) for caption, texts in pairs])
        statistics = [self._answer() for _ in captions]
        self._ask([" ||| ".join(("EVAL", *statistics))])
        try:
            scores = [float(self._answer()) for _ in captions]
            total = float(self._answer())
            table = np.array([[float(value) for value in line.split()] for line in statistics])
        except ValueError as error:
            message = f"METEOR gave an answer that is no number ({error}): run `capt-eval doctor`"
            raise JavaError(message) from error
        return total, scores, _without_whole_chunks(table.reshape(len(captions), len(STATISTICS)))

    def close(self) -> None:
        """End the process and wait until it has gone."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()

    def _ask(self, lines: Sequence[str]) -> None:
        """Write from a thread of its own, so that neither side waits for the other's full pipe."""
        threading.Thread(
            target=self._write, args=("".join(f"{line}\n" for line in lines).encode("utf-8", "replace"),), daemon=True
        ).start()

    def _write(self, content: bytes) -> None:
        with suppress(OSError, ValueError):  # a process that has ended is noticed by the reader
            assert self._process.stdin is not None  # noqa: S101  # opened as a pipe
            self._process.stdin.write(content)
            self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101  # opened as a pipe
        with suppress(ValueError):  # closed while reading
            for line in self._process.stdout:
                self._answers.put(line)
        self._answers.put(b"")

    def _answer(self) -> str:
        try:
            line = self._answers.get(timeout=self._answer_seconds)
        except queue.Empty:
            message = f"METEOR gave no answer within {self._answer_seconds:.0f} seconds: try again on a machine that is less busy"
            raise JavaError(message) from None
        if not line:
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip().splitlines()
            message = f"METEOR ended early ({said[0] if said else 'it said nothing'}): run `capt-eval doctor`"
            raise JavaError(message)
        return line.decode(errors="replace").strip()


@contextmanager
def meteor_process(java: Java, *, answer_seconds: float = ANSWER_SECONDS) -> Iterator[MeteorProcess]:
    """Start METEOR, and end it whatever happens.

    Args:
        java: Runs the jar.
        answer_seconds: The longest wait for one answer.

    Yields:
        The process; it loads its paraphrases while the caller does something else.

    Raises:
        JavaError: If it cannot be started.
    """
    jar = find_jar(METEOR_JAR)
    find_jar(METEOR_DATA)  # the jar looks for it beside itself
    command = java.command(("-jar", jar, "-", "-", "-stdio", "-l", "en", "-norm"), heap=METEOR_HEAP)
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(  # noqa: S603  # our own jar, no shell
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=java.environment()
            )
        except OSError as error:
            raise java.not_startable(error) from error
        meteor = MeteorProcess(process, errors, answer_seconds=answer_seconds)
        try:
            yield meteor
        finally:
            meteor.close()


def corpus_score(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute METEOR from summed statistics.

    Args:
        sums: `(..., 23)`, statistics added over images.

    Returns:
        Scores `(...)`, between 0 and 1.

    Source:
        Denkowski and Lavie 2014, English parameters; equal to the jar's own within its last digit.
    """
    matches = _matches(sums)
    weighted = _STAGE_WEIGHTS @ (_DELTA * matches[..., 0, :] + (1 - _DELTA) * matches[..., 1, :])  # (..., test|reference)
    lengths = _DELTA * (sums[..., :2] - sums[..., 2:4]) + (1 - _DELTA) * sums[..., 2:4]
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = weighted[..., 0] / lengths[..., 0], weighted[..., 1] / lengths[..., 1]
        mean = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
        fragmentation = sums[..., _CHUNKS] / ((sums[..., 21] + sums[..., 22]) / 2)
        score = mean * (1 - _GAMMA * fragmentation**_BETA)
    return np.where(np.isnan(score), 0.0, np.maximum(score, 0.0))


def _without_whole_chunks(statistics: NDArray[np.float64]) -> NDArray[np.float64]:
    """Count no chunk where caption and reference match as one whole, as the jar does when it adds images up."""
    whole = (_matches(statistics).sum(axis=(-3, -2)) == statistics[:, :2]).all(axis=-1) & (statistics[:, _CHUNKS] == 1)
    statistics[whole, _CHUNKS] = 0
    return statistics


def _matches(statistics: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the numbers of matches, `(..., stage, content|function, test|reference)`."""
    return statistics[..., 4:20].reshape(*statistics.shape[:-1], 4, 2, 2)


def _safe(tokens: str) -> str:
    """Keep the protocol's separator out, as pycocoevalcap does for captions."""
    return tokens.replace("|||", "").replace("  ", " ")
