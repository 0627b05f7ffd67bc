"""Every reader but those of images, on damaged files: each returns, or ends in one sentence that names the file.

Images have a zoo of their own (`tests/test_zoo.py`). How many examples are tried is told in `tests/damage.py`.
"""

import tempfile
import warnings
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capt.errors import CaptError
from capt.shown import one_line
from tests.damage import FUZZ
from tests.specimens import SPECIMENS, Specimen
from tests.trained_specimens import TRAINED

LONGEST = 2500  # characters of a sentence
ALL = {**SPECIMENS, **TRAINED}


@cache
def specimen(name: str) -> Specimen:
    """Make a specimen once."""
    return ALL[name]()


def write(files: dict[str, bytes], folder: Path) -> None:
    """Write files into a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("name", ALL)
def test_a_valid_file_is_read(name: str, tmp_path: Path) -> None:
    """Before anything is damaged, each reader takes its file, so that what follows proves something."""
    write(dict(specimen(name).files), tmp_path)
    specimen(name).read(tmp_path)


@pytest.mark.parametrize("name", ALL)
@FUZZ
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_in_one_sentence(name: str, data: st.DataObject) -> None:
    """A damaged file gives data or one of capt's own errors, one printable line that names the file: no other error, no hang."""
    chosen = specimen(name)
    file, content = data.draw(chosen.damaged())
    with tempfile.TemporaryDirectory() as folder:
        write({**chosen.files, file: content}, Path(folder))
        try:
            with warnings.catch_warnings(action="error"):
                chosen.read(Path(folder))
        except CaptError as error:
            said = str(error)
            assert said == one_line(said)
            assert len(said) <= LONGEST
            assert folder in said
