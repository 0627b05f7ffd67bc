"""A valid file of each kind that training writes and reads, checkpoints among them, and how it may be damaged.

In: the name of a reader. Out: a Specimen. Apart from `tests/specimens.py`, because these need torch.
"""

import gzip
import hashlib
import io
import json
import pickle
import struct
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from hypothesis import strategies as st
from torch import nn

from capt.checkpoint import load_checkpoint, read_header, save_checkpoint
from capt.encoder import EncoderConfig, build_encoder, pretrained_encoder
from capt.encoder_file import EncoderFile, read_encoder_file, write_encoder
from capt.encoder_weights import read_weights
from capt.images import INCEPTION
from capt.model import Captioner, ModelConfig
from capt.model_card import read_model_card
from capt.vocabulary import Vocabulary
from capt.word_vectors import load_word_vectors
from jobs.training.averaging import WeightAverage
from jobs.training.dataset import dataset_splits, read_dataset
from jobs.training.detection import Detection, name_images, read_arrays, read_detection, write_arrays, write_detection
from jobs.training.follow import RECORD, Following, _finished
from jobs.training.recipes import Recipe, Step
from jobs.training.state import State, load_state, save_state
from jobs.training.texts import TextPlan, read_ids, read_texts
from tests.conftest import EXAMPLE_CAPTIONS
from tests.damage import bent, odd_json_text, odd_parquet, odd_safetensors, table_bytes
from tests.specimens import IDS, REFERENCE_TEXTS, Specimen, png

VOCABULARY = Vocabulary.build(EXAMPLE_CAPTIONS, min_frequency=1)
TINY_ENCODER = EncoderConfig(name="timm:test_resnet")  # 0.5 million weights
PARTS = ("config", "vocabulary", "preprocessing", "card")
DIMENSION = 3


def written(write: Callable[[Path], object], name: str = "file.safetensors") -> bytes:
    """Give what a function writes into a file."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / name)
        return (Path(folder) / name).read_bytes()


def sign(metadata: dict[str, Any], weights: bytes) -> None:
    """Make a checkpoint's digest true, so that what it says is believed as far as it can be."""
    if all(isinstance(metadata.get(part), str) for part in PARTS):
        digest = hashlib.sha256()
        for part in PARTS:
            digest.update(hashlib.sha256(metadata[part].encode("utf-8", "replace")).digest())
        digest.update(weights)
        metadata["digest"] = digest.hexdigest()


def checkpoint() -> Specimen:
    """A checkpoint whose digest is true although its header is odd, or which is bent as bytes."""
    encoder = build_encoder(TINY_ENCODER)
    sizes = {"encoder_dim": encoder.dimension, "embed_dim": 6, "decoder_dim": 4, "attention_dim": 4, "feature_dim": 3}
    model = ModelConfig(encoder=TINY_ENCODER, vocab_size=len(VOCABULARY), dropout=0.0, **sizes)  # type: ignore[arg-type]  # sizes
    captioner = Captioner(model, encoder, INCEPTION).eval()
    card = {"name": "tiny", "data": ["a"], "metrics": {"CIDEr": 0.5}}
    content = written(
        lambda path: save_checkpoint(path, captioner=captioner, vocabulary=VOCABULARY, preprocessing=INCEPTION, card=card)
    )

    def odd(content: bytes) -> st.SearchStrategy[bytes]:
        return odd_safetensors(content, sign, PARTS)

    def read(folder: Path) -> None:
        path = folder / "best.safetensors"
        json.dumps(dict(read_header(path).card))
        read_model_card(path)
        load_checkpoint(path)

    return Specimen(files={"best.safetensors": content}, damage={"best.safetensors": (bent, odd, odd)}, read=read)


def encoder_file() -> Specimen:
    """An encoder's weights, which `--weights` takes."""
    about = EncoderFile(config=TINY_ENCODER, preprocessing=INCEPTION, facts={"words": 3})
    content = written(lambda path: write_encoder(path, build_encoder(TINY_ENCODER), about))

    def read(folder: Path) -> None:
        read_encoder_file(folder / "encoder.safetensors")
        pretrained_encoder(TINY_ENCODER, folder / "encoder.safetensors")

    ways = (bent, lambda content: odd_safetensors(content, nested=("capt",)))
    return Specimen(files={"encoder.safetensors": content}, damage={"encoder.safetensors": ways}, read=read)


def torch_weights() -> Specimen:
    """A publisher's weights, as torch writes them: a zip file now, a bare pickle once."""
    tensors = {"a": torch.zeros(2, 3), "b": torch.ones(4)}
    files = {
        "new.pth": written(lambda path: torch.save(tensors, path)),
        "old.pth": written(lambda path: torch.save({"state_dict": tensors}, path, _use_new_zipfile_serialization=False)),
    }
    return Specimen(
        files=files, damage=dict.fromkeys(files, (bent,)), read=lambda folder: [read_weights(folder / name) for name in files]
    )


def word_vectors() -> Specimen:
    """Word vectors in every format, gensim's among them."""
    from gensim.models import KeyedVectors  # noqa: PLC0415 - takes seconds

    words, numbers = VOCABULARY.words[4:9], np.arange(15, dtype=np.float32).reshape(5, DIMENSION)
    rows = list(zip(words, numbers, strict=True))
    keyed = KeyedVectors(DIMENSION)
    keyed.add_vectors(list(words), numbers)
    lines = "".join(f"{word} {' '.join(map(str, row))}\n" for word, row in rows)
    binary = f"5 {DIMENSION}\n".encode() + b"".join(f"{word} ".encode() + struct.pack("<3f", *row) for word, row in rows)
    files = {
        "vectors.bin": binary,
        "vectors.txt": f"5 {DIMENSION}\n{lines}".encode(),
        "glove.txt": lines.encode(),
        "packed.bin": gzip.compress(binary, mtime=0),
        "packed.txt": gzip.compress(lines.encode(), mtime=0),
        "whole.kv": pickle.dumps(keyed, protocol=4),
        "newer.kv": pickle.dumps(keyed, protocol=5),
        "beside.kv": written(lambda path: keyed.save(str(path), sep_limit=1), "beside.kv"),
    }
    stream = io.BytesIO()
    np.save(stream, numbers)
    files["beside.kv.vectors.npy"] = stream.getvalue()

    def read(folder: Path) -> None:
        for name in files:
            if not name.endswith(".npy"):
                load_word_vectors(folder / name, VOCABULARY, dimension=DIMENSION)

    return Specimen(files=files, damage=dict.fromkeys(files, (bent, bent_archive)), read=read)


def bent_archive(content: bytes) -> st.SearchStrategy[bytes]:
    """Damage what is in an archive, and pack it again; anything else is damaged as it is."""
    if content[:2] != b"\x1f\x8b":
        return bent(content)
    return bent(gzip.decompress(content)).map(lambda damaged: gzip.compress(damaged, mtime=0))


def _state(seed: int) -> State:
    """Make a network that has learned for a step."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Linear(2, 3)
    optimiser = torch.optim.Adam(network.parameters())
    average = WeightAverage(list(network.parameters()), 0.9)
    network(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    average.update()
    return State(network=network, optimiser=optimiser, average=average)


def training_state() -> Specimen:
    """What `--resume` takes up; what is read must fit, so that training can go on with it."""
    epochs = [{"epoch": 1, "train_loss": 2.5}]
    content = written(lambda path: save_state(path, _state(0), fingerprint="run", epochs=epochs))

    def read(folder: Path) -> None:
        state = _state(1)
        assert all(isinstance(line, dict) for line in load_state(folder / "state.safetensors", state, fingerprint="run"))
        state.network(torch.ones(1, 2)).sum().backward()
        state.optimiser.step()
        state.average.update()

    ways = (bent, lambda content: odd_safetensors(content, nested=("epochs",)))
    return Specimen(files={"state.safetensors": content}, damage={"state.safetensors": ways}, read=read)


def detection() -> Specimen:
    """What detectors of words found, and a part of a stage's result."""
    images = name_images(list(IDS))
    found = Detection(
        words=("boat", "kite"),
        weight=np.ones((2, 3), np.float32),
        bias=np.ones(2, np.float32),
        frequencies=np.full(2, 0.5, np.float32),
        logits=np.ones((4, 2), np.float16),
        images=images,
        encoder="x",
    )
    files = {
        "detected-words.safetensors": written(lambda path: write_detection(path, found)),
        "words-part-0.safetensors": written(lambda path: write_arrays(path, {"logits": found.logits}, "run")),
    }

    def read(folder: Path) -> None:
        detected = read_detection(folder / "detected-words.safetensors", images)
        assert detected.logits.shape[1] == len(detected.words) == len(detected.weight)
        read_arrays(folder / "words-part-0.safetensors", "run")

    ways = (bent, lambda content: odd_safetensors(content, nested=("capt",)))
    return Specimen(files=files, damage=dict.fromkeys(files, ways), read=read)


def dataset() -> Specimen:
    """Photographs with captions to train on, in parquet, and their text."""
    table = pa.table(
        {
            "image": [{"bytes": png(), "path": name} for name in IDS],
            "image_id": list(IDS),
            "caption": [["a dog", "two dogs"]] * 4,
            "split": ["train"] * 3 + ["dev"],
        }
    )

    def read(folder: Path) -> None:
        source = folder / "images.parquet"
        dataset_splits(source)
        learning, validating = (read_dataset(source, split=split) for split in ("train", "dev"))
        assert all(isinstance(image, bytes | Path) for image in learning.read())
        assert all(isinstance(text, str) for texts in learning.captions for text in texts)
        read_texts(TextPlan(source=source, exclude=folder / "exclude"), learning, validating)

    files = {"images.parquet": table_bytes(table), "exclude": b"a.jpg\n"}
    return Specimen(files=files, damage={"images.parquet": (bent, odd_parquet, odd_parquet)}, read=read)


def training_text() -> Specimen:
    """Captions without images, and which are left out."""
    files = {"text": REFERENCE_TEXTS["json lines"].encode(), "exclude": b"a.jpg\nb.jpg\n"}

    def read(folder: Path) -> None:
        images = read_dataset_of(folder)
        read_ids(folder / "exclude")
        read_texts(TextPlan(source=folder / "text", exclude=folder / "exclude"), images, images.subset(1))

    def read_dataset_of(folder: Path) -> Any:  # noqa: ANN401 - jobs.training.dataset.CaptionedImages
        (folder / "photos").mkdir()
        for name in ("known.jpg", "other.jpg"):
            (folder / "photos" / name).write_bytes(png())
        (folder / "known").write_text("image,caption,split\nknown.jpg,a dog,train\nother.jpg,a cat,train\n")
        return read_dataset(folder / "photos", split="train", references=folder / "known")

    return Specimen(files=files, damage={"text": (bent, odd_json_text), "exclude": (bent,)}, read=read)


def recipe_record() -> Specimen:
    """Which stages of a recipe are finished."""
    step = Step(stage="words", self_critical=False, output=Path("x"), command="train", source=Path("photos"), options={})
    recipe = Recipe(name="default", about="", stages=())
    record = {"recipe": "default", "steps": [{"stage": "words", "command": "", "choices": step.choices, "finished": True}]}
    files = {RECORD: json.dumps(record).encode()}

    def read(folder: Path) -> None:
        following = Following(recipe=recipe, steps=[step], plans=[], notes=[], output=folder, resume=True)
        _finished(replace(following, steps=[replace(step, output=folder / "x")]))

    return Specimen(files=files, damage={RECORD: (bent, odd_json_text)}, read=read)


TRAINED: Mapping[str, Callable[[], Specimen]] = {
    "checkpoint": checkpoint,
    "encoder file": encoder_file,
    "torch weights": torch_weights,
    "word vectors": word_vectors,
    "training state": training_state,
    "detection": detection,
    "dataset": dataset,
    "training text": training_text,
    "recipe record": recipe_record,
}
