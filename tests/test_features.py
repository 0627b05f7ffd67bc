"""Cached features: computed once, right, and safe when interrupted."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from capt.encoder import Encoder, EncoderConfig
from capt.errors import InputError, OutputError
from capt.images import Preprocessing, open_image, to_array
from capt.model import Captioner, ModelConfig
from jobs.training.dataset import CaptionedImages
from jobs.training.features import BATCH_SIZE, Progress, cached_features, cached_pixels, default_cache_folder

COUNT = 2 * BATCH_SIZE + 5
PREPROCESSING = Preprocessing(name="tiny", size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class _Scaled(nn.Module):
    """A network of one weight."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(images, 2) * self.factor


def _captioner(factor: float = 1.0) -> Captioner:
    network = _Scaled(factor)
    config = ModelConfig(
        encoder=EncoderConfig(name="efficientnet_lite0"), vocab_size=5, encoder_dim=3, embed_dim=2, decoder_dim=2, attention_dim=2
    )
    return Captioner(config, Encoder(network, 3), PREPROCESSING).eval()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CaptionedImages:
    """Give some more than two batches of small images of different colours."""
    folder = tmp_path_factory.mktemp("images")
    places = []
    for number in range(COUNT):
        places.append(folder / f"{number}.png")
        Image.new("RGB", (20, 12), (3 * number, 255 - 3 * number, 128)).save(places[-1])
    ids = tuple(place.name for place in places)
    return CaptionedImages(image_ids=ids, captions=(("x",),) * COUNT, places=tuple(places), identity="colours")


def _ignore(_done: int, _total: int) -> None:
    """Listen to nobody."""


def _features(
    dataset: CaptionedImages, captioner: Captioner, folder: Path, progress: Progress = _ignore
) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
    return cached_features(dataset, captioner, PREPROCESSING, folder, workers=2, progress=progress)


def _refuse(done: int, total: int) -> None:
    """Nothing shall be computed."""
    pytest.fail(f"{done} of {total} images were computed again")


def test_features_are_what_the_encoder_says(dataset: CaptionedImages, tmp_path: Path) -> None:
    """Row n holds the encoded n-th image, as float16, read-only."""
    captioner = _captioner()
    features = _features(dataset, captioner, tmp_path)
    pixels = np.stack([to_array(open_image(place), PREPROCESSING) for place in dataset.read() if isinstance(place, Path)])
    with torch.inference_mode():
        expected = captioner.encode(torch.from_numpy(pixels)).half().numpy()
    assert features.shape == (COUNT, 4, 3)
    np.testing.assert_array_equal(features, expected)
    assert not features.flags.writeable


def test_features_are_computed_once(dataset: CaptionedImages, tmp_path: Path) -> None:
    """A second run over the same data with the same encoder decodes and encodes nothing."""
    captioner = _captioner()
    first = np.array(_features(dataset, captioner, tmp_path))
    missing = CaptionedImages(
        image_ids=dataset.image_ids, captions=dataset.captions, places=(Path("gone"),) * COUNT, identity=dataset.identity
    )
    np.testing.assert_array_equal(_features(missing, captioner, tmp_path, _refuse), first)


def test_other_weights_data_or_preprocessing_are_other_features(dataset: CaptionedImages, tmp_path: Path) -> None:
    """The cache is keyed by encoder weights, preprocessing, precision and data: nothing stale is ever read."""
    captioner = _captioner()
    first = np.array(_features(dataset, captioner, tmp_path))
    doubled = _features(dataset, _captioner(2.0), tmp_path)
    np.testing.assert_allclose(doubled, first * 2, rtol=1e-2)
    smaller = Preprocessing(name="tiny", size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    cached_features(dataset, captioner, smaller, tmp_path, workers=1, progress=_ignore)
    _features(dataset, captioner.set_precision("bfloat16"), tmp_path)
    fewer = CaptionedImages(
        image_ids=dataset.image_ids[:3], captions=dataset.captions[:3], places=dataset.places[:3], identity="other"
    )
    assert len(_features(fewer, captioner.set_precision("float32"), tmp_path)) == 3
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize("stop_at", [BATCH_SIZE, 2 * BATCH_SIZE])
def test_an_interrupted_computation_goes_on_where_it_was(dataset: CaptionedImages, tmp_path: Path, stop_at: int) -> None:
    """Stopped after a batch, the next start keeps the finished rows, computes the rest, and the result is whole."""
    captioner = _captioner()

    def stop(done: int, _total: int) -> None:
        if done == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_features(dataset, captioner, PREPROCESSING, tmp_path, workers=2, progress=stop)
    heard: list[int] = []
    features = _features(dataset, captioner, tmp_path, lambda done, _total: heard.append(done))
    assert heard == [done for done in (2 * BATCH_SIZE, COUNT) if done > stop_at]
    np.testing.assert_array_equal(features, _features(dataset, captioner, tmp_path / "fresh"))


@pytest.mark.parametrize("damage", ["cut", "no record", "broken record"])
def test_a_damaged_cache_is_computed_again(dataset: CaptionedImages, tmp_path: Path, damage: str) -> None:
    """A file of the wrong size, or without a readable record of what is done, is not trusted."""
    captioner = _captioner()
    first = np.array(_features(dataset, captioner, tmp_path))
    (folder,) = tmp_path.iterdir()
    rows, done = folder / "rows.bin", folder / "done.json"
    if damage == "cut":
        os.truncate(rows, 100)
    elif damage == "no record":
        done.unlink()
    else:
        done.write_text('{"rows": ')
    np.testing.assert_array_equal(_features(dataset, captioner, tmp_path), first)


def test_progress_is_told(dataset: CaptionedImages, tmp_path: Path) -> None:
    """Whoever watches hears how many images are done, of how many, after each batch."""
    heard: list[tuple[int, int]] = []
    cached_features(
        dataset, _captioner(), PREPROCESSING, tmp_path, workers=1, progress=lambda done, total: heard.append((done, total))
    )
    assert heard == [(BATCH_SIZE, COUNT), (2 * BATCH_SIZE, COUNT), (COUNT, COUNT)]


def test_pixels_are_cached_for_fine_tuning(dataset: CaptionedImages, tmp_path: Path) -> None:
    """When the encoder learns, what is kept are the prepared pixels."""
    pixels = cached_pixels(dataset, PREPROCESSING, tmp_path, workers=2, progress=_ignore)
    assert pixels.shape == (COUNT, 16, 16, 3)
    assert pixels.dtype == np.uint8
    assert pixels[7, 3, 3].tolist() == [21, 234, 128]


def test_views_are_cached_beside_the_image_itself(dataset: CaptionedImages, tmp_path: Path) -> None:
    """The mirror image has features and pixels of its own, in a cache of its own; the image's own cache is untouched."""
    captioner = _captioner()
    plain = np.array(_features(dataset, captioner, tmp_path))
    mirrored = cached_features(dataset, captioner, PREPROCESSING, tmp_path, workers=2, progress=_ignore, look=1)
    np.testing.assert_array_equal(mirrored.reshape(COUNT, 2, 2, 3)[:, :, ::-1], plain.reshape(COUNT, 2, 2, 3))
    crop = cached_pixels(dataset, PREPROCESSING, tmp_path, workers=2, progress=_ignore, look=2)
    assert crop.shape == (COUNT, 16, 16, 3)
    assert len(list(tmp_path.iterdir())) == 3
    np.testing.assert_array_equal(_features(dataset, captioner, tmp_path, _refuse), plain)


def test_a_bad_training_image_is_named(tmp_path: Path) -> None:
    """Training data must be whole: the error names the image and the cause."""
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    broken = CaptionedImages(image_ids=("bad.jpg",), captions=(("x",),), places=(tmp_path / "bad.jpg",), identity="bad")
    with pytest.raises(InputError, match=r"bad\.jpg cannot be used \(not_an_image"):
        _features(broken, _captioner(), tmp_path / "cache")


def test_values_beyond_float16_are_clamped(tmp_path: Path) -> None:
    """An encoder with huge outputs gives large finite features, not infinities."""
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (255, 0, 0)).save(file, "PNG")
    (tmp_path / "red.png").write_bytes(file.getvalue())
    one = CaptionedImages(image_ids=("red",), captions=(("x",),), places=(tmp_path / "red.png",), identity="red")
    assert np.isfinite(_features(one, _captioner(1e8), tmp_path / "cache")).all()


def test_a_full_disk_is_said_before_work(dataset: CaptionedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room for all features is reserved at the start; when there is none the error names the option."""

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OutputError, match="--feature-cache"):
        _features(dataset, _captioner(), tmp_path, _refuse)


def test_the_cache_is_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """XDG_CACHE_HOME is respected, ~/.cache is the default."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / "capt" / "features"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache_folder() == tmp_path / "home" / ".cache" / "capt" / "features"
