"""What detectors found is kept whole, and is not taken for what was found about other images."""

from pathlib import Path

import numpy as np
import pytest

from capt.errors import CheckpointError, InputError
from jobs.training.detection import Detection, name_images, read_arrays, read_detection, write_arrays, write_detection

FOUND = Detection(
    words=("boat", "kite"),
    weight=np.arange(6, dtype=np.float32).reshape(2, 3),
    bias=np.array([0.5, -1.0], np.float32),
    frequencies=np.array([0.25, 0.1], np.float32),
    logits=np.array([[1.0, -2.0], [0.0, 3.0]], np.float16),
    images=name_images(["1.jpg", "2.jpg"]),
    encoder="some weights",
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Words and all numbers come back as they were."""
    write_detection(tmp_path / "found.safetensors", FOUND)
    read = read_detection(tmp_path / "found.safetensors", name_images(["1.jpg", "2.jpg"]))
    assert (read.words, read.images, read.encoder) == (FOUND.words, FOUND.images, FOUND.encoder)
    for name in ("weight", "bias", "frequencies", "logits"):
        assert np.array_equal(getattr(read, name), getattr(FOUND, name))
        assert getattr(read, name).dtype == getattr(FOUND, name).dtype


@pytest.mark.parametrize("others", [["2.jpg", "1.jpg"], ["1.jpg"], ["1.jpg", "2.jpg", "3.jpg"]])
def test_other_images_are_refused(tmp_path: Path, others: list[str]) -> None:
    """Images in another order, fewer or more are not those that were judged."""
    write_detection(tmp_path / "found.safetensors", FOUND)
    with pytest.raises(InputError, match="other training images"):
        read_detection(tmp_path / "found.safetensors", name_images(others))


def test_what_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    """A missing file, a file of something else and one that is cut short are told apart from each other's remedies."""
    with pytest.raises(InputError, match=r"There is no .*--detected-words"):
        read_detection(tmp_path / "nowhere.safetensors")
    path = tmp_path / "found.safetensors"
    for content in (b"", b"captions", b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as detected words"):
            read_detection(path)
    write_detection(path, FOUND)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match="cannot be read as detected words"):
        read_detection(path)
    write_arrays(path, {"logits": FOUND.logits}, "run")
    with pytest.raises(InputError, match="cannot be read as detected words"):
        read_detection(path)


def test_a_part_of_a_stage_is_taken_up_by_its_own_run_only(tmp_path: Path) -> None:
    """A missing or damaged part is made again; one of another run is refused."""
    path = tmp_path / "part.safetensors"
    assert read_arrays(path, "run") is None
    write_arrays(path, {"logits": FOUND.logits}, "run")
    taken = read_arrays(path, "run")
    assert taken is not None
    assert np.array_equal(taken["logits"], FOUND.logits)
    with pytest.raises(CheckpointError, match="other data or options"):
        read_arrays(path, "other")
    path.write_bytes(path.read_bytes()[:20])
    assert read_arrays(path, "run") is None
