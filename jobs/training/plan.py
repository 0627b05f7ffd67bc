"""What a training run is: where its data are, which network, how it learns, on what machine; and which choices go together.

In: choices. Out: a `TrainingPlan`. Apart from the run itself, because commands and recipes make plans and run nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capt.encoder import EncoderConfig
from capt.errors import InputError
from capt.model import DROPOUTS, Precision
from jobs.training.features import default_cache_folder
from jobs.training.options import TextOptions, TrainingOptions, WordsOptions
from jobs.training.texts import TextPlan


@dataclass(frozen=True, kw_only=True)
class DataPlan:
    """Where the captioned images are.

    Args:
        source: A folder of images, or parquet manifests.
        references: Captions of a folder's images.
        train_split: Name of the split to learn from.
        validation_split: Name of the split to choose by; None takes val, dev or validation, whichever there is.
        train_images: A list of images to learn from, for references without splits.
        validation_images: The same, to choose by.
        limit: Only this many images of each split; 0 takes all.
        allow_outside: Whether a manifest's paths may lead out of its folder.
    """

    source: Path
    references: Path | None = None
    train_split: str = "train"
    validation_split: str | None = None
    train_images: Path | None = None
    validation_images: Path | None = None
    limit: int = 0
    allow_outside: bool = False


@dataclass(frozen=True, kw_only=True)
class NetworkPlan:
    """What network is trained, and from which weights.

    Args:
        encoder: Which encoder.
        weights: File of its ImageNet weights; None looks in the usual places.
        image_size: Pixels of each side of the images that it sees; None is what the weights were trained with, or 224.
        word_vectors: File of word vectors for the embeddings; None draws them at random.
        start_from: A checkpoint to go on from; its encoder, sizes and vocabulary are taken, and the dropouts that are None here.
        min_frequency: How often a word must occur to be in the vocabulary.
        embed_dim: E.
        decoder_dim: H.
        attention_dim: A.
        dropout: Share of units dropped; None is 0.5.
        embedding_dropout: Share of a read word's embedding dropped; None is 0.
        tie_embeddings: Whether the output layer uses the embeddings.
        feature_dim: F, dimension to which a grid cell is projected first; 0 reads it as it is.
        feature_dropout: Share of a projected cell dropped; None is 0.
        context_readout: Whether words are read out of the attended context too.
        detected_dim: R, dimension to which the likelihoods of the detected words are projected; 0 detects none.
        detected_dropout: Share of the projected likelihoods dropped; None is 0.
        detected_words: What another run found about the training images; None lets --words-epochs find it.
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    weights: Path | None = None
    image_size: int | None = None
    word_vectors: Path | None = None
    start_from: Path | None = None
    min_frequency: int = 5
    embed_dim: int = 300
    decoder_dim: int = 512
    attention_dim: int = 512
    dropout: float | None = None
    embedding_dropout: float | None = None
    tie_embeddings: bool = True
    feature_dim: int = 0
    feature_dropout: float | None = None
    context_readout: bool = True
    detected_dim: int = 0
    detected_dropout: float | None = None
    detected_words: Path | None = None

    def dropouts(self) -> dict[str, float]:
        """Name the shares that were chosen."""
        shares = {name: getattr(self, name) for name in DROPOUTS}
        return {name: share for name, share in shares.items() if share is not None}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and with what the run computes.

    Args:
        device: A torch device.
        precision: In which the encoder, and in training also the decoder, computes.
        workers: Threads that decode images.
        feature_cache: Where encoded images are kept.
    """

    device: str = "cpu"
    precision: Precision = Precision.FLOAT32
    workers: int = 2
    feature_cache: Path = field(default_factory=default_cache_folder)


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """A whole run.

    Args:
        data: Where the captioned images are.
        network: What is trained.
        options: How.
        machine: Where.
        output: Folder of the run.
        words: How the encoder first learns which words people use.
        text: Captions without images that the decoder reads first; None for none.
        text_options: How it reads them.
        resume: Whether to go on with what is in the folder.
        command: The command line, for the model card.
        recipe: For the model card, the recipe of which this run is a stage: its name, the stage, its commands; None for none.
    """

    data: DataPlan
    network: NetworkPlan
    options: TrainingOptions
    machine: Machine
    output: Path
    words: WordsOptions = field(default_factory=WordsOptions)
    text: TextPlan | None = None
    text_options: TextOptions = field(default_factory=TextOptions)
    resume: bool = False
    command: str = ""
    recipe: Mapping[str, Any] | None = None


def check_choices(plan: TrainingPlan) -> None:
    """Refuse choices that do not go together, before anything is read.

    Args:
        plan: The run.

    Raises:
        InputError: Naming what to give or to leave out.
    """
    if plan.options.self_critical and plan.network.start_from is None:
        message = "--self-critical goes on from a checkpoint that was trained by cross-entropy; name it with --start-from."
        raise InputError(message)
    if plan.options.start_share and plan.network.start_from is None:
        message = "--start-share is a share of the weights of --start-from; give that as well, or leave it out."
        raise InputError(message)
    if plan.options.self_critical and plan.words.epochs:
        message = "--words-epochs lets the encoder learn before cross-entropy; leave it out with --self-critical."
        raise InputError(message)
    _check_softness(plan)
    found = plan.words.epochs or plan.network.detected_words
    if plan.network.start_from is None and plan.network.detected_dim and not found:
        message = "--detected-dim reads what --words-epochs or --detected-words finds; give it with one of them."
        raise InputError(message)
    if plan.network.detected_words and plan.words.epochs:
        message = "--detected-words tells what another run found, and --words-epochs finds it anew; leave one of them out."
        raise InputError(message)
    if plan.network.detected_words and plan.network.start_from is None and not plan.network.detected_dim:
        message = "Without --detected-dim nothing reads --detected-words; give that as well, or leave it out."
        raise InputError(message)
    if plan.network.image_size is not None and plan.network.start_from is not None:
        message = "--image-size is for a new network, and --start-from sees images as it was trained to; leave out one of them."
        raise InputError(message)
    if plan.text and plan.network.start_from is not None:
        message = "--text is for a decoder that has learned nothing yet; leave out --text or --start-from."
        raise InputError(message)


def _check_softness(plan: TrainingPlan) -> None:
    """Refuse soft targets that nothing is learned by, or that nothing is known for."""
    if plan.words.softness and not plan.words.epochs:
        message = "--words-softness is about --words-epochs; give that as well, or leave it out."
        raise InputError(message)
    if plan.words.softness and not plan.text:
        message = "--words-softness learns from --text which words go together; give that as well, or leave it out."
        raise InputError(message)
