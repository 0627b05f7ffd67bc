"""One file holds a captioner whole, and whatever is wrong with a file is said in one sentence."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from capt.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint, read_header, round_as_stored, save_checkpoint
from capt.decoding import DecodingOptions, decode
from capt.encoder import EncoderConfig, build_encoder
from capt.errors import CaptError, CheckpointError
from capt.images import INCEPTION, Preprocessing
from capt.model import Captioner, ModelConfig
from capt.vocabulary import Vocabulary

CARD = {"name": "test", "data": "a few captions", "metrics": {"perplexity": 12.5}, "unicode": "é"}
VOCABULARY = Vocabulary.build(["a dog runs on the beach", "a cat sleeps in the café"], min_frequency=1)


def _captioner(*, tied: bool = True, vocab_size: int = len(VOCABULARY), attention_dim: int = 4) -> Captioner:
    torch.manual_seed(0)
    config = EncoderConfig(name="efficientnet_lite0")
    sizes: dict[str, Any] = {"embed_dim": 6, "decoder_dim": 8, "attention_dim": attention_dim, "tie_embeddings": tied}
    return Captioner(
        ModelConfig(encoder=config, vocab_size=vocab_size, encoder_dim=1280, **sizes), build_encoder(config), INCEPTION
    ).eval()


def _save(path: Path, captioner: Captioner | None = None, *, half: bool = True, vocabulary: Vocabulary = VOCABULARY) -> Path:
    save_checkpoint(
        path, captioner=captioner or _captioner(), vocabulary=vocabulary, preprocessing=INCEPTION, card=CARD, half=half
    )
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a checkpoint that is written once; tests alter copies of it."""
    return _save(tmp_path_factory.mktemp("checkpoint") / "model.safetensors")


def _parts(file: Path) -> tuple[dict[str, Any], bytes]:
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _put(path: Path, header: object, weights: bytes) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + weights)
    return path


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_saved_is_loaded(tmp_path: Path, tied: bool) -> None:  # noqa: FBT001 - a case
    """Every weight, the vocabulary, the preprocessing and the card come back; exactly when nothing was halved."""
    captioner = _captioner(tied=tied)
    loaded = load_checkpoint(_save(tmp_path / "deep" / "model.safetensors", captioner, half=False))
    assert loaded.vocabulary == VOCABULARY
    assert loaded.preprocessing == INCEPTION
    assert loaded.card == CARD
    assert loaded.captioner.config == captioner.config
    assert not loaded.captioner.training
    theirs = loaded.captioner.state_dict()
    for name, value in captioner.state_dict().items():
        assert torch.equal(theirs[name], value), name
    decoder = loaded.captioner.decoder
    assert (decoder.output.weight is decoder.embedding.weight) == tied


def test_halving_loses_less_than_half_a_thousandth(file: Path, tmp_path: Path) -> None:
    """Stored as float16 the file is half as large, loads as float32, and weights move by at most 2⁻¹¹ of themselves."""
    whole = _save(tmp_path / "whole.safetensors", half=False)
    assert file.stat().st_size < 0.56 * whole.stat().st_size
    exact, halved = (load_checkpoint(path).captioner.state_dict() for path in (whole, file))
    for name, value in exact.items():
        assert halved[name].dtype == value.dtype
        torch.testing.assert_close(halved[name], value, rtol=2**-11, atol=1e-7)


def test_what_float16_cannot_hold_stays_float32(tmp_path: Path) -> None:
    """A weight beyond float16's range survives."""
    captioner = _captioner()
    with torch.no_grad():
        captioner.decoder.gate.weight[0, 0] = 1e6
    loaded = load_checkpoint(_save(tmp_path / "large.safetensors", captioner))
    assert float(loaded.captioner.decoder.gate.weight[0, 0].detach()) == 1e6


@pytest.mark.parametrize("attention_dim", [4, 0])
def test_a_loaded_captioner_captions_as_before(tmp_path: Path, attention_dim: int) -> None:
    """The captions of a saved and loaded captioner are those of the original, also of one that does not attend."""
    captioner = _captioner(attention_dim=attention_dim)
    loaded = load_checkpoint(_save(tmp_path / "model.safetensors", captioner, half=False)).captioner
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        first, second = (decode(one.decoder, one.encode(images), DecodingOptions(max_length=6)) for one in (captioner, loaded))
    assert first == second


def test_the_file_is_plain_safetensors_and_its_hash_is_known(file: Path) -> None:
    """Any safetensors reader opens it; sha256 is that of the file."""
    with safe_open(file, "pt") as reader:
        assert "decoder.attention.energy.weight" in reader.keys()  # noqa: SIM118 - safetensors has no __contains__
        assert reader.metadata()["format"] == "capt"
    printed = subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True).stdout  # noqa: S607 - coreutils
    assert load_checkpoint(file).sha256 == printed.split()[0]


def test_the_same_captioner_gives_the_same_bytes(file: Path, tmp_path: Path) -> None:
    """Nothing in a file depends on when or where it was written."""
    assert _save(tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def test_the_header_is_read_without_torch_and_without_weights(file: Path) -> None:
    """`capt-batch info` answers at once: torch stays unloaded."""
    program = (
        "import sys; from pathlib import Path; from capt.checkpoint import read_header;"
        f"card = read_header(Path({str(file)!r})).card; assert card['metrics']['perplexity'] == 12.5;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    header = read_header(file)
    assert header.shapes["decoder.embedding.weight"] == (len(VOCABULARY), 6)
    assert header.vocabulary == VOCABULARY


def _refused(path: Path, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(file: Path, tmp_path: Path, share: float) -> None:
    """Cut anywhere, the file is refused with the advice to fetch it again or with what a checkpoint is."""
    content = file.read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(content[: int(len(content) * share)])
    _refused(cut, "cut short|not a checkpoint")


@pytest.mark.parametrize("missing", [1, 8])
def test_a_file_that_lacks_its_last_bytes_is_refused(file: Path, tmp_path: Path, missing: int) -> None:
    """One byte too few is enough."""
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(file.read_bytes()[:-missing])
    _refused(cut, "cut short")


@pytest.mark.parametrize("position", [0.3, 0.9999])
def test_a_tampered_weight_is_refused(file: Path, tmp_path: Path, position: float) -> None:
    """One flipped bit among the weights is found."""
    content = bytearray(file.read_bytes())
    content[int(len(content) * position)] ^= 1
    altered = tmp_path / "altered.safetensors"
    altered.write_bytes(content)
    _refused(altered, "altered or damaged")


@pytest.mark.parametrize("part", ["config", "vocabulary", "preprocessing", "card"])
def test_a_tampered_header_is_refused(file: Path, tmp_path: Path, part: str) -> None:
    """Whatever is changed in the header without its digest is found, though it parses."""
    header, weights = _parts(file)
    changes = {"config": ('"dropout": 0.5', '"dropout": 0.4'), "vocabulary": ("beach", "peach"), "preprocessing": ("0.5", "0.4")}
    old, new = changes.get(part, ("12.5", "10.5"))
    assert old in header["__metadata__"][part]
    header["__metadata__"][part] = header["__metadata__"][part].replace(old, new)
    _refused(_put(tmp_path / "altered.safetensors", header, weights), "altered or damaged")


def test_bytes_added_at_the_end_are_refused(file: Path, tmp_path: Path) -> None:
    """A file with something appended is not the file that was written."""
    longer = tmp_path / "longer.safetensors"
    longer.write_bytes(file.read_bytes() + b"more")
    _refused(longer, "altered or damaged")


def test_a_newer_format_asks_for_an_upgrade(file: Path, tmp_path: Path) -> None:
    """A checkpoint of a later capt is recognised as such."""
    header, weights = _parts(file)
    header["__metadata__"]["format_version"] = "2"
    _refused(_put(tmp_path / "newer.safetensors", header, weights), "upgrade capt")


def _foreign_tensors(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path)


def _foreign_metadata(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path, {"format": "pt"})


def _pickle(path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, path)


def _text(path: Path) -> None:
    path.write_text("This is no checkpoint; it is a letter.\n" * 100)


def _nonsense_header(path: Path) -> None:
    _put(path, ["a", "list"], b"")


def _nested_header(path: Path) -> None:
    text = b"[" * 100_000
    path.write_bytes(len(text).to_bytes(8, "little") + text)


@pytest.mark.parametrize("write", [_foreign_tensors, _foreign_metadata, _pickle, _text, _nonsense_header, _nested_header])
def test_a_foreign_file_is_refused(tmp_path: Path, write: Callable[[Path], None]) -> None:
    """Safetensors of others, torch files, texts and deep nonsense are no checkpoints."""
    path = tmp_path / "foreign.safetensors"
    write(path)
    _refused(path, "not a checkpoint")


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("config", "{}"),
        ("config", "[]"),
        ("config", "not JSON"),
        ("vocabulary", '["a"]'),
        ("vocabulary", "7"),
        ("preprocessing", '{"name": "x"}'),
        ("preprocessing", "[1]"),
        ("card", "{"),
        ("digest", "0"),
        ("format_version", "one"),
        ("format_version", None),
        ("config", None),
    ],
)
def test_a_damaged_header_is_refused(file: Path, tmp_path: Path, part: str, value: str | None) -> None:
    """Whichever part of the header is wrong, the user reads one sentence and no traceback."""
    header, weights = _parts(file)
    if value is None:
        del header["__metadata__"][part]
    else:
        header["__metadata__"][part] = value
    _refused(_put(tmp_path / "damaged.safetensors", header, weights), "fetch|not a checkpoint")


def _resealed(file: Path, path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Change the header and renew the digest, as a careful forger would."""
    from capt.checkpoint import _digest  # noqa: PLC0415 - the forger's tool only

    header, weights = _parts(file)
    change(header)
    metadata = header["__metadata__"]
    metadata["digest"] = _digest(metadata, memoryview(weights))
    return _put(path, header, weights)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("decoder_dim", 9),
        ("decoder_dim", -1),
        ("decoder_dim", "many"),
        ("vocab_size", 10**12),
        ("attention_dim", 10**15),
        ("encoder", {"name": "no_such_network"}),
        ("encoder", 5),
        ("novelty", 1),
    ],
)
def test_a_configuration_that_contradicts_the_weights_is_refused(file: Path, tmp_path: Path, field: str, value: object) -> None:
    """Even with a valid digest, sizes that do not fit the weights are refused before memory is taken for them."""

    def change(header: dict[str, Any]) -> None:
        config = json.loads(header["__metadata__"]["config"])
        header["__metadata__"]["config"] = json.dumps({**config, field: value})

    with pytest.raises(CaptError) as caught:
        load_checkpoint(_resealed(file, tmp_path / "forged.safetensors", change))
    assert "\n" not in str(caught.value)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    """A training that diverged must not be captioned with."""
    captioner = _captioner()
    with torch.no_grad():
        captioner.decoder.gate.bias[0] = float("nan")
    _refused(_save(tmp_path / "nan.safetensors", captioner, half=False), "not all numbers")


def test_a_vocabulary_of_another_size_is_refused(tmp_path: Path) -> None:
    """Vocabulary and output layer must have as many words."""
    path = _save(tmp_path / "model.safetensors", vocabulary=Vocabulary.build(["other words here"], min_frequency=1))
    _refused(path, "vocabulary")


def test_a_missing_checkpoint_is_said(tmp_path: Path) -> None:
    """The error names the option; for a folder it says that it cannot be read."""
    _refused(tmp_path / "missing.safetensors", "--checkpoint")
    _refused(tmp_path, "cannot be read")


def test_an_installation_without_a_checkpoint_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """When the shipped file is gone, the way out is installing again or naming one."""
    monkeypatch.setattr("capt.checkpoint.DEFAULT_CHECKPOINT", tmp_path / "default.safetensors")
    with pytest.raises(CheckpointError, match="install capt again"):
        load_checkpoint()


def test_the_default_checkpoint_loads_and_knows_its_data() -> None:
    """The file that ships loads by itself, is at most 40 MB, and its card tells data, recipe, metrics, date and versions."""
    checkpoint = load_checkpoint()
    assert DEFAULT_CHECKPOINT.stat().st_size <= 40e6
    assert {"data", "command", "validation", "date", "versions"} <= set(checkpoint.card)
    assert isinstance(checkpoint.preprocessing, Preprocessing)


def test_weights_rounded_as_stored_are_what_a_checkpoint_gives_back(tmp_path: Path) -> None:
    """A network that is rounded first comes back from its checkpoint bit for bit."""
    captioner = _captioner()
    round_as_stored(captioner)
    _save(tmp_path / "rounded.safetensors", captioner)
    loaded = load_checkpoint(tmp_path / "rounded.safetensors").captioner.state_dict()
    for name, tensor in captioner.state_dict().items():
        assert torch.equal(loaded[name], tensor), name
