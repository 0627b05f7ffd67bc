"""A file of an encoder's weights says what it is, and `--weights` takes it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from capt.encoder import EncoderConfig, build_encoder, pretrained_encoder
from capt.encoder_file import EncoderFile, read_encoder_file, weights_preprocessing, write_encoder
from capt.errors import WeightsError
from capt.images import INCEPTION, Preprocessing

PREPROCESSING = Preprocessing(name="tiny", size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.mark.parametrize("name", ["efficientnet_lite0", "timm:test_resnet"])
def test_a_written_encoder_is_read_as_weights(tmp_path: Path, name: str) -> None:
    """Under its publisher's names, in full precision, with the preprocessing; another network's file is refused."""
    config = EncoderConfig(name=name)
    torch.manual_seed(3)
    encoder = build_encoder(config).to(memory_format=torch.channels_last)
    path = tmp_path / "encoder.safetensors"
    write_encoder(path, encoder, EncoderFile(config=config, preprocessing=PREPROCESSING, facts={"answer": 42}))
    again = pretrained_encoder(config, path)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in encoder.state_dict().items())
    told = read_encoder_file(path)
    assert told is not None
    assert (told.config, told.facts) == (config, {"answer": 42})
    assert weights_preprocessing(config, path) == PREPROCESSING
    assert weights_preprocessing(config, path, 64) == replace(PREPROCESSING, name="tiny-64", size=64)
    with pytest.raises(WeightsError, match=f"weights of the encoder {name}"):
        weights_preprocessing(EncoderConfig(name="resnet50"), path)


def test_a_file_that_says_nothing_has_its_publishers_preprocessing(tmp_path: Path) -> None:
    """Files of others, no file, and a file that cannot be read: what is wrong with it is said by whoever reads its weights."""
    config = EncoderConfig(name="efficientnet_lite0")
    (tmp_path / "letter.safetensors").write_text("Dear reader")
    for path in (None, tmp_path / "missing.safetensors", tmp_path / "letter.safetensors"):
        assert weights_preprocessing(config, path) == INCEPTION


def test_a_damaged_header_is_a_sentence(tmp_path: Path) -> None:
    """A file of ours whose facts are broken is refused."""
    save_file({"a": torch.zeros(1)}, tmp_path / "encoder.safetensors", {"capt": "{}"})
    with pytest.raises(WeightsError, match="damaged"):
        read_encoder_file(tmp_path / "encoder.safetensors")
