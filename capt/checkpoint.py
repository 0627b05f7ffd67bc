"""One self-contained file for a trained captioner: configuration, vocabulary, weights and model card, as safetensors.

In and out: a `Checkpoint`. Apart, because it is the seam between training and everything that captions; nothing in a file is
ever executed, and a file that was cut, altered or written by something else is refused.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capt.errors import CaptError, CheckpointError, first_line
from capt.files import write_whole
from capt.images import Preprocessing
from capt.vocabulary import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor, nn

    from capt.model import Captioner, ModelConfig

FORMAT, FORMAT_VERSION = "capt", 1
DEFAULT_CHECKPOINT = Path(__file__).with_name("default.safetensors")
_MAX_HEADER_BYTES = 50_000_000
_LENGTH_BYTES = 8  # a safetensors file begins with the length of its JSON header, little-endian
_PARTS = ("config", "vocabulary", "preprocessing", "card")
_FLOAT16_MAX = 65_504.0


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a checkpoint says of itself, without its weights.

    Args:
        config: The fields of `capt.model.ModelConfig`.
        vocabulary: The words it knows.
        preprocessing: How images are prepared for it.
        card: The model card: data, recipe, metrics, date, versions.
        shapes: Shape of each tensor by name.
        parts: The JSON texts that config, vocabulary, preprocessing and card were read from.
        digest: sha256 of these texts and of the weights, as they were when the file was written.
        data_start: Where in the file the weights begin, bytes.
    """

    config: dict[str, Any]
    vocabulary: Vocabulary
    preprocessing: Preprocessing
    card: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    parts: Mapping[str, str]
    digest: str
    data_start: int


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A captioner that is ready to work, with all it needs.

    Args:
        captioner: In eval mode, float32, on the CPU.
        vocabulary: The words it knows.
        preprocessing: How images are prepared for it.
        card: The model card.
        sha256: Of the whole file.
        path: Where it was read from.
    """

    captioner: "Captioner"
    vocabulary: Vocabulary
    preprocessing: Preprocessing
    card: Mapping[str, Any]
    sha256: str
    path: Path


def read_header(path: Path | None = None) -> Header:
    """Read what a checkpoint says of itself; neither torch nor the weights are loaded.

    Args:
        path: The file, or None for the one that ships.

    Returns:
        The header.

    Raises:
        CheckpointError: If the file is missing, cut short, foreign, from a newer capt, or damaged.
    """
    path = path or DEFAULT_CHECKPOINT
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            text = file.read(min(length, _MAX_HEADER_BYTES))
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise CheckpointError(_unreadable(path, error)) from error
    return _parse_header(path, length, text, size)


def load_checkpoint(path: Path | None = None) -> Checkpoint:
    """Read a checkpoint and build its captioner.

    Args:
        path: The file, or None for the one that ships.

    Returns:
        The captioner with all it needs.

    Raises:
        CheckpointError: If the file is missing, cut short, foreign, from a newer capt, damaged or altered.
    """
    path = path or DEFAULT_CHECKPOINT
    header = read_header(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(_unreadable(path, error)) from error
    if _digest(header.parts, memoryview(content)[header.data_start :]) != header.digest:
        message = f"{path} was altered or damaged after it was written (its digest differs); fetch or train it again."
        raise CheckpointError(message)
    return Checkpoint(
        captioner=_build(path, header, content),
        vocabulary=header.vocabulary,
        preprocessing=header.preprocessing,
        card=header.card,
        sha256=hashlib.sha256(content).hexdigest(),
        path=path,
    )


def check_agreement(checkpoints: Mapping[Path, tuple[Vocabulary, Preprocessing]]) -> None:
    """Refuse checkpoints that cannot write captions together.

    Args:
        checkpoints: Of each its words and how images are prepared for it.

    Raises:
        CheckpointError: If they differ in these.
    """
    first, *others = checkpoints
    for other in others:
        for what, here, there in zip(("words", "preprocessing"), checkpoints[first], checkpoints[other], strict=True):
            if here != there:
                message = f"{other} has not the {what} of {first}; give checkpoints that agree in it to --checkpoint."
                raise CheckpointError(message)


def joint_digest(digests: Sequence[str]) -> str:
    """Name several checkpoints that work together.

    Args:
        digests: sha256 of each file.

    Returns:
        The only one's, or sha256 of all in their order.
    """
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def save_checkpoint(  # noqa: PLR0913 - a checkpoint has as many parts
    path: Path,
    *,
    captioner: "Captioner",
    vocabulary: Vocabulary,
    preprocessing: Preprocessing,
    card: Mapping[str, Any],
    half: bool = True,
) -> None:
    """Write a checkpoint; the file appears whole or not at all.

    Args:
        path: Where, by convention ending in `.safetensors`.
        captioner: To be stored.
        vocabulary: The words it knows.
        preprocessing: How images are prepared for it.
        card: The model card, as JSON can hold it.
        half: Store matrices as float16, which halves the file; vectors, and what float16 cannot hold, stay float32.

    Raises:
        OutputError: If the file cannot be written.
    """
    from safetensors.torch import save  # noqa: PLC0415 - imports torch, which a reader of headers does without

    tensors = {name: _stored(tensor, half=half) for name, tensor in _state(captioner).items()}
    parts = {
        "config": json.dumps(captioner.config.to_dict()),
        "vocabulary": vocabulary.to_json(),
        "preprocessing": json.dumps(preprocessing.to_dict()),
        "card": json.dumps(dict(card), ensure_ascii=False),
    }
    bare = save(tensors)
    start = _LENGTH_BYTES + int.from_bytes(bare[:_LENGTH_BYTES], "little")
    weights = memoryview(bare)[start:]
    metadata = {"format": FORMAT, "format_version": str(FORMAT_VERSION), **parts, "digest": _digest(parts, weights)}
    header = {"__metadata__": metadata, **json.loads(bare[_LENGTH_BYTES:start])}  # by hand: safetensors orders metadata at random
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)  # the weights begin at a multiple of 8, as the format asks
    write_whole(path, len(text).to_bytes(_LENGTH_BYTES, "little") + text + bytes(weights))


def _unreadable(path: Path, error: OSError) -> str:
    if path == DEFAULT_CHECKPOINT:
        return f"This installation of capt has no default checkpoint ({path}); install capt again, or name one with --checkpoint."
    if isinstance(error, FileNotFoundError):
        return f"There is no checkpoint at {path}; give --checkpoint the .safetensors file that `capt-batch train` wrote."
    return f"The checkpoint {path} cannot be read ({error.strerror}); check its permissions."


def _parse_header(path: Path, length: int, text: bytes, size: int) -> Header:
    foreign = f"{path} is not a checkpoint of capt; give a .safetensors file that `capt-batch train` wrote."
    if length > size or length > _MAX_HEADER_BYTES or len(text) < length:
        cut = text[:1] == b"{" and length <= _MAX_HEADER_BYTES
        raise CheckpointError(f"{path} is cut short; fetch or train it again." if cut else foreign)
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__")
        if metadata["format"] != FORMAT:
            raise CheckpointError(foreign)
        version = int(metadata["format_version"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise CheckpointError(foreign) from error
    if version > FORMAT_VERSION:
        message = f"{path} has format {version} and this capt reads up to {FORMAT_VERSION}; upgrade capt."
        raise CheckpointError(message)
    try:
        parts = {part: metadata[part] for part in _PARTS}
        card, config = (_object(parts[part]) for part in ("card", "config"))
        shapes = {name: tuple(int(side) for side in entry["shape"]) for name, entry in header.items()}
        end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
        read = Header(
            config=config,
            vocabulary=Vocabulary.from_json(parts["vocabulary"]),
            preprocessing=Preprocessing.from_dict(json.loads(parts["preprocessing"])),
            card=card,
            shapes=shapes,
            parts=parts,
            digest=str(metadata["digest"]),
            data_start=_LENGTH_BYTES + length,
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        message = f"The header of {path} is damaged ({type(error).__name__}); fetch or train it again."
        raise CheckpointError(message) from error
    if size < _LENGTH_BYTES + length + end:
        message = f"{path} is cut short ({size} of {_LENGTH_BYTES + length + end} bytes); fetch or train it again."
        raise CheckpointError(message)
    return read


def _object(text: str) -> dict[str, Any]:
    """Read JSON of one object, which can be written again."""
    values = json.loads(text)
    if not isinstance(values, dict):
        message = "this is no object"
        raise TypeError(message)
    json.dumps(values, ensure_ascii=False).encode()
    return values


def _digest(parts: Mapping[str, str], weights: memoryview) -> str:
    digest = hashlib.sha256()
    for part in _PARTS:
        digest.update(hashlib.sha256(parts[part].encode()).digest())
    digest.update(weights)
    return digest.hexdigest()


def _build(path: Path, header: Header, content: bytes) -> "Captioner":
    """Build the network and fill in the weights; nothing is allocated before the sizes are known to agree with the file."""
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load  # noqa: PLC0415

    try:
        captioner = _network(path, header)
    except CheckpointError:
        raise
    except CaptError as error:
        message = f"{path} cannot be used: {error}"
        raise CheckpointError(message) from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RuntimeError) as error:
        message = f"The configuration in {path} makes no network ({first_line(error)}); fetch or train it again."
        raise CheckpointError(message) from error
    wanted = {name: tuple(tensor.shape) for name, tensor in _state(captioner).items()}
    if wanted != dict(header.shapes):
        differing = sorted(set(wanted.items()) ^ set(header.shapes.items()))
        message = f"The weights in {path} do not fit its configuration ({differing[0][0]}); fetch or train it again."
        raise CheckpointError(message)
    try:
        state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in load(content).items()}
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        message = f"The weights in {path} cannot be read ({first_line(error)}); fetch or train it again."
        raise CheckpointError(message) from error
    if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
        message = f"The weights in {path} are not all numbers; train again, with a lower learning rate."
        raise CheckpointError(message)
    captioner.load_state_dict(
        state, strict=False
    )  # the names were compared above; only tied tensors and step counters are absent
    return captioner.eval()


def _network(path: Path, header: Header) -> "Captioner":
    """Build the network that a header describes, once all that it says of sizes agrees."""
    from capt.model import ModelConfig  # noqa: PLC0415

    config = ModelConfig.from_dict(header.config)
    if config.vocab_size != len(header.vocabulary) or any(header.shapes[name] != shape for name, shape in _sizes(config)):
        message = f"The header of {path} contradicts itself (sizes); fetch or train it again."
        raise CheckpointError(message)
    if config.encoder.name.startswith("timm:"):  # of which there are some with billions of weights; our own are small
        _check_encoder(config, header.shapes)
    return _skeleton(config, header.preprocessing)


def _sizes(config: "ModelConfig") -> Iterator[tuple[str, tuple[int, int]]]:
    """Name the tensors whose shapes bound all others, so that a false configuration allocates nothing."""
    yield "decoder.embedding.weight", (config.vocab_size, config.embed_dim)
    yield "decoder.attention.grid_projection.weight", (config.attention_dim, config.context_dim)
    if config.detected_words:
        yield "decoder.detected.detector.weight", (config.detected_words, config.encoder_dim)
        yield "decoder.detected.gates.weight", (4 * config.decoder_dim, config.detected_dim)
    if config.feature_dim:
        yield "decoder.features.weight", (config.feature_dim, config.encoder_dim)
    yield "decoder.context_gates.weight", (4 * config.decoder_dim, config.context_dim + config.decoder_dim)


def _skeleton(config: "ModelConfig", preprocessing: Preprocessing) -> "Captioner":
    from capt.encoder import build_encoder  # noqa: PLC0415 - torch
    from capt.model import Captioner  # noqa: PLC0415

    return Captioner(config, build_encoder(config.encoder), preprocessing)


def _check_encoder(config: "ModelConfig", shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse the name of a network that is larger than the weights here, before anything is set aside for it."""
    import torch  # noqa: PLC0415

    from capt.encoder import build_encoder  # noqa: PLC0415 - torch

    with torch.device("meta"):  # sizes without memory
        encoder = build_encoder(config.encoder)
    for name, tensor in encoder.state_dict().items():
        if not name.endswith("num_batches_tracked") and shapes[f"encoder.{name}"] != tuple(tensor.shape):
            message = f"the encoder's {name} has another size"
            raise ValueError(message)


def _state(captioner: "Captioner") -> dict[str, "Tensor"]:
    """Name the tensors that a file holds: without counters of training steps, and a tied matrix once."""
    tied = {"decoder.output.weight"} if captioner.config.tie_embeddings else set()
    state = captioner.state_dict()
    return {name: tensor for name, tensor in state.items() if name not in tied and not name.endswith("num_batches_tracked")}


def round_as_stored(module: "nn.Module") -> None:
    """Give a network the weights that it will have when it is read from a checkpoint.

    Args:
        module: Is changed.
    """
    for tensor in module.state_dict().values():
        tensor.copy_(_stored(tensor, half=True))


def _stored(tensor: "Tensor", *, half: bool) -> "Tensor":
    plain = tensor.detach().cpu().contiguous()
    halvable = half and plain.is_floating_point() and plain.dim() > 1 and plain.numel()
    return plain.half() if halvable and float(plain.abs().max()) < _FLOAT16_MAX else plain
