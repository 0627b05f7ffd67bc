"""What many tests stand on: a tiny checkpoint, a few real photographs, and the development data where it is there."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jobs.threads import wait_briefly

wait_briefly()  # before torch is there: on a busy machine tests that train would take forty times as long

from tests.faulting import disk, program, reference  # noqa: E402, F401 - fixtures
from tests.object_store import s3, s3_server  # noqa: E402, F401 - fixtures
from tests.running import job, opened_images, options, start, undisturbed  # noqa: E402, F401 - fixtures
from tests.stalling import stalling  # noqa: E402, F401 - a fixture

if TYPE_CHECKING:
    from capt.model import Captioner

ROOT = Path(__file__).parents[1]
EXAMPLE_PHOTOS = ROOT / "examples" / "photos"
EXAMPLE_CAPTIONS = (
    "a man in a black coat looks through a camera on a tripod",
    "a woman in an orange suit smiles at the camera",
    "a cat with green eyes",
    "a cup of coffee on a wooden table",
    "two people walk up the stairs of a tower",
    "a raccoon sits on a green plant",
    "a rocket stands between four towers at night",
    "a woman in a black uniform stands before a flag",
)


def tiny_captioner(vocab_size: int, *, seed: int = 0) -> "Captioner":
    """Make a captioner that is small enough to run at once: EfficientNet-Lite0 without its pretrained weights, a small decoder.

    Args:
        vocab_size: V.
        seed: Of its random weights.

    Returns:
        The captioner, in eval mode.
    """
    import torch  # noqa: PLC0415 - most tests need no torch

    from capt.encoder import EncoderConfig, build_encoder  # noqa: PLC0415 - imports torch
    from capt.images import INCEPTION  # noqa: PLC0415 - beside the others
    from capt.model import Captioner, ModelConfig  # noqa: PLC0415 - imports torch

    config = EncoderConfig(name="efficientnet_lite0")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = build_encoder(config)
        model = ModelConfig(
            encoder=config,
            vocab_size=vocab_size,
            encoder_dim=encoder.dimension,
            embed_dim=12,
            decoder_dim=16,
            attention_dim=10,
            dropout=0.0,
        )
        return Captioner(model, encoder, INCEPTION).eval()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the path of a checkpoint with random but fixed weights; its words are those of the example captions."""
    from capt.checkpoint import save_checkpoint  # noqa: PLC0415 - imports torch
    from capt.images import INCEPTION  # noqa: PLC0415 - beside the others
    from capt.vocabulary import Vocabulary  # noqa: PLC0415 - beside the others

    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    vocabulary = Vocabulary.build(EXAMPLE_CAPTIONS, min_frequency=1)
    captioner = tiny_captioner(len(vocabulary))
    save_checkpoint(path, captioner=captioner, vocabulary=vocabulary, preprocessing=INCEPTION, card={"name": "tiny"})
    return path


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with the example photographs and nothing else."""
    folder = tmp_path_factory.mktemp("photos")
    for photo in sorted(EXAMPLE_PHOTOS.glob("*.jpg")):
        shutil.copy(photo, folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests out of the user's cache folder, and what that folder holds out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Give the folder of the development data; the test is skipped where it is absent."""
    folder = Path(os.environ.get("CAPT_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "flickr8k").is_dir():
        pytest.skip(f"the development data are not at {folder}; name their folder in CAPT_DATA")
    return folder
