"""The training job as one readable function: data, vocabulary, encoder, word vectors, features, text, loop.

In: a `TrainingPlan`. Out: a folder with checkpoints, log and curves. Apart from the loop, because finding everything is one
subject and learning is another.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from capt.checkpoint import load_checkpoint, round_as_stored
from capt.encoder import Encoder, pretrained_encoder
from capt.encoder_file import read_encoder_file, weights_digest, weights_preprocessing
from capt.errors import InputError, OutputError, at_work
from capt.images import Preprocessing
from capt.model import Captioner, ModelConfig
from capt.vocabulary import Vocabulary
from capt.word_vectors import load_word_vectors
from jobs.training import language_model, loop, word_detection
from jobs.training.caption_words import find_words
from jobs.training.cross_entropy import CrossEntropy
from jobs.training.dataset import CaptionedImages, dataset_splits, read_dataset
from jobs.training.detection import Detection, name_images, read_detection
from jobs.training.features import cached_features, cached_pixels
from jobs.training.imagined import Imagination
from jobs.training.language_model import Reading, learn_language, text_facts
from jobs.training.loop import EncodedSplit, Epoch, Listener, Training, detect, train
from jobs.training.plan import DataPlan, NetworkPlan, TrainingPlan, check_choices
from jobs.training.self_critical import SelfCritical
from jobs.training.soft_words import check_texts
from jobs.training.texts import Texts, read_texts
from jobs.training.word_detection import Seeing, learn_words, learning_blocks

VALIDATION_SPLITS = ("val", "dev", "validation")
Say = Callable[[str], None]
_SECONDS_BETWEEN_LINES = 15.0


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What is known of a run before it begins.

    Args:
        learning: How many images there are to learn from.
        validating: How many to choose by.
        split: The name of their split.
        feature_bytes: What an encoded image takes in the cache.
        pixel_bytes: What one takes that is kept as pixels, because the encoder learns.
    """

    learning: int
    validating: int
    split: str
    feature_bytes: int
    pixel_bytes: int


def check_training(plan: TrainingPlan) -> Needs:
    """Refuse before hours of work what can be refused then: choices, data, text and the encoder's weights.

    Args:
        plan: The run; its word vectors may still be missing.

    Returns:
        What it needs.

    Raises:
        CaptError: If anything that was given cannot be used.
    """
    check_choices(plan)
    learning, validating, split = _read_data(plan.data)
    _told_texts(plan, learning, validating)
    _given_detection(plan, learning.subset(plan.data.limit) if plan.data.limit else learning)
    encoder, size = _encoder(plan.network)
    if plan.words.epochs:
        find_words(learning.captions[: plan.data.limit or None])
        encoder.last_blocks(plan.words.blocks or 1)
    with torch.inference_mode():
        numbers = encoder(torch.zeros(1, 3, size, size)).numel()
    return Needs(
        learning=min(len(learning), plan.data.limit or len(learning)),
        validating=min(len(validating), plan.data.limit or len(validating)),
        split=split,
        feature_bytes=numbers * 2,  # float16
        pixel_bytes=size * size * 3,
    )


def run_training(plan: TrainingPlan, listener: Listener, say: Say) -> list[Epoch]:
    """Train a captioner from captioned images.

    Args:
        plan: The run.
        listener: Told about steps and epochs.
        say: Told in sentences what is being done.

    Returns:
        All epochs.

    Raises:
        CaptError: If anything that was given cannot be used.
    """
    check_choices(plan)
    _check_output(plan)
    learning, validating, split = _read_data(plan.data)
    texts = _read_texts(plan, learning, validating, say)  # before the limit: no image to choose by is ever read of
    if plan.data.limit:
        learning, validating = learning.subset(plan.data.limit), validating.subset(plan.data.limit)
    say(f"{len(learning):,} images to learn from, {len(validating):,} to choose by ({split}).")
    detection = _given_detection(plan, learning)
    captioner, vocabulary, preprocessing, facts = _build(plan, learning, (texts, detection), say)
    _check_network(plan, captioner, detection)
    captioner.to(plan.machine.device).set_precision(plan.machine.precision)
    run = Training(
        captioner=captioner,
        vocabulary=vocabulary,
        preprocessing=preprocessing,
        options=plan.options,
        output=plan.output,
        card=_card(plan, captioner.config, (learning, validating, split), facts),
        fingerprint=_fingerprint(plan, learning, validating, texts),
    )
    if plan.words.epochs:
        run = _see_words(run, plan, (learning, validating), texts, listener, say)
    if captioner.config.detected_words:
        detection = _adopt(run, plan, detection, say)
    if not plan.options.fine_tune_blocks:  # the features are then those of the checkpoint, and are in the cache for what follows
        round_as_stored(captioner.encoder)
    learned_from = _encode(run, plan, learning, say, views=plan.options.views)
    learned_from = replace(learned_from, detected=detection.logits if detection else None)
    validated_on = _encode(run, plan, validating, say)
    with at_work():
        if texts:
            reading = _reading(run, plan, (learned_from, validated_on), texts, detection)
            run = _read_first(run, reading, listener, say, resume=plan.resume)
        objective = SelfCritical(run, learned_from) if plan.options.self_critical else CrossEntropy(run, learned_from)
        epochs = train(run, objective, validated_on, listener, resume=plan.resume)
    best = max((epoch for epoch in epochs if epoch.best), key=lambda epoch: epoch.epoch)
    say(f"Best epoch {best.epoch}: perplexity {best.perplexity:.2f}; it is {plan.output / 'best.safetensors'}.")
    return epochs


def _encoder(network: NetworkPlan) -> tuple[Encoder, int]:
    """Give the encoder that a run begins with, and how many pixels wide it sees."""
    if network.start_from is not None:
        checkpoint = load_checkpoint(network.start_from)
        return checkpoint.captioner.encoder, checkpoint.preprocessing.size
    preprocessing = weights_preprocessing(network.encoder, network.weights, network.image_size)
    return pretrained_encoder(network.encoder, network.weights), preprocessing.size


def _check_output(plan: TrainingPlan) -> None:
    try:
        names = [loop.STATE, "best.safetensors", "last.safetensors"]
        names += [name for stage in (language_model, word_detection) for name in (stage.STATE, stage.RESULT)]
        names += [word_detection.DETECTION, *(path.name for path in plan.output.glob(f"{word_detection.PART}*"))]
        held = [name for name in names if (plan.output / name).exists()]
        plan.output.mkdir(parents=True, exist_ok=True)
        probe = plan.output / ".probe.tmp"
        probe.touch()
        probe.unlink()
        for half_written in plan.output.glob(".*.tmp") if plan.resume else ():  # by a run that was killed
            half_written.unlink()
    except OSError as error:
        message = f"{plan.output} cannot be written ({error.strerror or error}); choose another --output."
        raise OutputError(message) from error
    if held and not plan.resume:
        message = (
            f"{plan.output} already holds a training run ({held[0]}); go on with it by --resume, or choose another --output."
        )
        raise OutputError(message)


def _read_data(data: DataPlan) -> tuple[CaptionedImages, CaptionedImages, str]:
    split = data.validation_split
    if split is None:
        there = dataset_splits(data.source)
        split = next((name for name in VALIDATION_SPLITS if name in there), VALIDATION_SPLITS[0])
    read = partial(read_dataset, data.source, references=data.references, allow_outside=data.allow_outside)
    learning = read(split=data.train_split, images=data.train_images)
    validating = read(split=split, images=data.validation_images)
    both = set(learning.image_ids) & set(validating.image_ids)
    if both:
        message = (
            f"{len(both)} images are in both the training and the validation split, such as {min(both)}; make them disjoint."
        )
        raise InputError(message)
    return learning, validating, split


def _told_texts(plan: TrainingPlan, learning: CaptionedImages, validating: CaptionedImages) -> Texts | None:
    """Read the text, where there is some, and refuse what nothing can be learned from."""
    if plan.text is None:
        return None
    texts = read_texts(plan.text, learning, validating)
    if plan.words.softness:
        check_texts(texts)
    return texts


def _read_texts(plan: TrainingPlan, learning: CaptionedImages, validating: CaptionedImages, say: Say) -> Texts | None:
    texts = _told_texts(plan, learning, validating)
    if texts is None:
        return None
    left_out = f"{texts.excluded:,} images left out, and {texts.held_back:,} because they are those to choose by"
    say(f"{len(texts.captions):,} captions to read first ({left_out}).")
    return texts


def _see_words(  # noqa: PLR0913, PLR0917 - what it looks at, and who hears of it
    run: Training,
    plan: TrainingPlan,
    splits: tuple[CaptionedImages, CaptionedImages],
    texts: Texts | None,
    listener: Listener,
    say: Say,
) -> Training:
    """Let the encoder learn which words people use; gives the run with what its card should know of it."""
    words = find_words(splits[0].captions)  # this and the next are refused before an image is opened
    _check_words(run, plan, len(words), len(splits[0]), say)
    learning_blocks(run.captioner.encoder, run.captioner.config.encoder, plan.words)
    learning, validating = (_encode(run, plan, dataset, say, learns=True) for dataset in splits)
    seeing = Seeing(
        learning=learning,
        validation=validating,
        words=words,
        options=plan.words,
        images=name_images(splits[0].image_ids),
        texts=texts,
    )
    with at_work():
        facts = learn_words(run, seeing, listener, resume=plan.resume)
    precision = f"{100 * facts['curve'][-1]['mean_average_precision']:.1f} %"
    where = f"its weights are {plan.output / word_detection.RESULT}"
    say(f"The encoder tells {facts['words']:,} words with a mean average precision of {precision}; {where}.")
    return replace(run, card={**run.card, "words": facts})


def _given_detection(plan: TrainingPlan, learning: CaptionedImages) -> Detection | None:
    """Read what was found about the training images, where it is given."""
    path = plan.network.detected_words
    return None if path is None else read_detection(path, name_images(learning.image_ids))


def _check_network(plan: TrainingPlan, captioner: Captioner, detection: Detection | None) -> None:
    """Refuse detected words that this network cannot read, and choices that would change what it reads."""
    network, detected = plan.network, captioner.decoder.detected
    if detected is not None and plan.options.fine_tune_blocks:
        message = "--fine-tune-blocks changes the encoder, and detected words are read from it as it is; leave that out."
        raise InputError(message)
    if detection is None:
        return
    path = network.detected_words
    if detected is None:
        message = f"{network.start_from} reads no detected words; leave out --detected-words."
        raise InputError(message)
    weight = torch.from_numpy(detection.weight)
    same = weight.shape == detected.detector.weight.shape
    if network.start_from is not None and not (same and weight.allclose(detected.detector.weight, rtol=1e-3, atol=1e-4)):
        message = f"{path} tells of another detector than that of {network.start_from}; give the file of the run that made it."
        raise InputError(message)
    if network.start_from is None and not (same and detection.encoder == weights_digest(captioner.encoder)):
        message = (
            f"{path} tells of an encoder with other weights; give --weights the encoder.safetensors of the run that wrote it."
        )
        raise InputError(message)


def _adopt(run: Training, plan: TrainingPlan, detection: Detection | None, say: Say) -> Detection | None:
    """Give the decoder its detector, unless it has one; gives what is known about the training images."""
    if plan.words.epochs:
        detection = read_detection(plan.output / word_detection.DETECTION)
    detected, path = run.captioner.decoder.detected, plan.network.start_from
    if detected is None or detection is None:
        say("The decoder's detector may have learned from these images, and judge them too well: give --detected-words, if so.")
        return None
    if path is None or plan.words.epochs:
        detected.adopt(torch.from_numpy(detection.weight), torch.from_numpy(detection.bias))
    if path is None:
        detected.begin_with(torch.from_numpy(detection.frequencies))
    return detection


def _check_words(run: Training, plan: TrainingPlan, words: int, images: int, say: Say) -> None:
    """Refuse words that the decoder does not read and parts without images; tell what makes judgements too favourable."""
    wanted = run.captioner.config.detected_words
    if not wanted:
        return
    if words != wanted:
        message = f"The captions tell of {words:,} words, and the decoder reads {wanted:,}; give those that it was trained on."
        raise InputError(message)
    if plan.words.folds > images:
        message = f"--words-folds asks for {plan.words.folds:,} parts of {images:,} images; ask for fewer."
        raise InputError(message)
    known = read_encoder_file(plan.network.weights) if plan.network.weights else None
    if plan.network.start_from is not None or (known is not None and "words" in known.facts):
        say("The encoder that this begins with may have learned these images: its judgements of unseen parts are too favourable.")


def _reading(
    run: Training, plan: TrainingPlan, splits: tuple[EncodedSplit, EncodedSplit], texts: Texts, detection: Detection | None
) -> Reading:
    """Say what text is read, and which words would be detected in its images."""
    learned_from, validated_on = splits
    validation = [text for captions in validated_on.captions for text in captions]
    imagined = detected = None
    if detection is not None and run.captioner.decoder.detected is not None:
        imagined = Imagination(detection.words, (learned_from.captions, detection.logits)).of(texts.captions, texts.images)
        logits = detect(run, validated_on)
        detected = np.repeat(logits, [len(captions) for captions in validated_on.captions], axis=0)
    return Reading(
        captions=texts.captions, validation=validation, options=plan.text_options, imagined=imagined, detected=detected
    )


def _read_first(run: Training, reading: Reading, listener: Listener, say: Say, *, resume: bool) -> Training:
    """Let the decoder learn the language; gives the run with what its card should know of it."""
    epochs = learn_language(run, reading, listener, resume=resume)
    say(f"The text was read {len(epochs)} times: perplexity {epochs[-1].perplexity:.2f} without images.")
    return replace(run, card={**run.card, "text": text_facts(epochs, reading)})


def _build(
    plan: TrainingPlan, learning: CaptionedImages, read: tuple[Texts | None, Detection | None], say: Say
) -> tuple[Captioner, Vocabulary, Preprocessing, dict[str, Any]]:
    """Make the captioner that training starts from, and tell what the model card should know of it."""
    network, (texts, detection) = plan.network, read
    torch.manual_seed(plan.options.seed)
    if network.start_from is not None:
        checkpoint = load_checkpoint(network.start_from)
        checkpoint.captioner.set_dropout(**network.dropouts())
        say(f"Going on from {network.start_from}.")
        facts: dict[str, Any] = {"started_from": {"sha256": checkpoint.sha256, "card": dict(checkpoint.card)}}
        return checkpoint.captioner, checkpoint.vocabulary, checkpoint.preprocessing, facts
    captions = texts.captions if texts else (text for captions in learning.captions for text in captions)
    vocabulary = Vocabulary.build(captions, min_frequency=network.min_frequency)
    say(f"{len(vocabulary):,} words occur at least {network.min_frequency} times.")
    preprocessing = weights_preprocessing(network.encoder, network.weights, network.image_size)
    encoder = pretrained_encoder(network.encoder, network.weights)
    words = detection.words if detection else find_words(learning.captions) if network.detected_dim else ()
    config = ModelConfig(
        encoder=network.encoder,
        vocab_size=len(vocabulary),
        encoder_dim=encoder.dimension,
        embed_dim=network.embed_dim,
        decoder_dim=network.decoder_dim,
        attention_dim=network.attention_dim,
        tie_embeddings=network.tie_embeddings,
        feature_dim=network.feature_dim,
        context_readout=network.context_readout,
        detected_words=len(words) if network.detected_dim else 0,
        detected_dim=network.detected_dim or ModelConfig.detected_dim,
        **network.dropouts(),
    )
    captioner = Captioner(config, encoder, preprocessing)
    facts = _embed(captioner, vocabulary, network.word_vectors, plan.options.seed, say)
    if network.detected_words:
        facts = {**facts, "detected_words": {"file": network.detected_words.name, "words": len(words)}}
    return captioner, vocabulary, preprocessing, facts


def _embed(captioner: Captioner, vocabulary: Vocabulary, path: Path | None, seed: int, say: Say) -> dict[str, Any]:
    if path is None:
        return {"word_vectors": None}
    vectors = load_word_vectors(path, vocabulary, dimension=captioner.config.embed_dim, seed=seed)
    matrix = torch.from_numpy(vectors.matrix)
    with torch.no_grad():  # the file's directions, at the length with which the embedding would have begun
        captioner.decoder.embedding.weight.copy_(matrix * (captioner.config.embed_dim**-0.5 / float(matrix[4:].std())))
    lacking = f"; not: {', '.join(vectors.missing[:5])}{' …' if len(vectors.missing) > 5 else ''}" if vectors.missing else ""  # noqa: PLR2004
    say(f"{vectors.found:,} of {vectors.wanted:,} words ({vectors.coverage:.1%}) found in {path}{lacking}.")
    return {"word_vectors": {"file": path.name, "found": vectors.found, "wanted": vectors.wanted}}


def _encode(  # noqa: PLR0913 - what is encoded, for what, and in how many views
    run: Training, plan: TrainingPlan, dataset: CaptionedImages, say: Say, *, views: int = 1, learns: bool = False
) -> EncodedSplit:
    """Encode the images of a split, or prepare their pixels where the encoder learns, in each view."""
    learns = learns or bool(plan.options.fine_tune_blocks)
    spoke, folder, workers = [time.monotonic()], plan.machine.feature_cache, plan.machine.workers

    def progress(done: int, total: int) -> None:
        if done == total or time.monotonic() - spoke[0] > _SECONDS_BETWEEN_LINES:
            spoke[0] = time.monotonic()
            say(f"{done:,} of {total:,} images {'prepared' if learns else 'encoded'}.")

    def look(number: int) -> NDArray[Any]:
        if learns:
            return cached_pixels(dataset, run.preprocessing, folder, workers=workers, progress=progress, look=number)
        return cached_features(dataset, run.captioner, run.preprocessing, folder, workers=workers, progress=progress, look=number)

    return EncodedSplit(images=look(0), captions=dataset.captions, views=[look(number) for number in range(1, views)])


def _fingerprint(plan: TrainingPlan, learning: CaptionedImages, validating: CaptionedImages, read: Texts | None) -> str:
    """Digest what decides the result: data, network and options (but not how many epochs), and precision."""
    options = {name: value for name, value in plan.options.to_dict().items() if name not in {"epochs", "patience"}}
    first = [read.captions, asdict(plan.text_options)] if read else []
    texts = hashlib.sha256(json.dumps([learning.captions, validating.captions, *first]).encode()).hexdigest()
    values = [learning.identity, validating.identity, texts, asdict(plan.network), options, plan.machine.precision]
    values += [asdict(plan.words)] if plan.words.epochs else []
    return hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()


def _card(
    plan: TrainingPlan, config: ModelConfig, data: tuple[CaptionedImages, CaptionedImages, str], facts: dict[str, Any]
) -> dict[str, Any]:
    learning, validating, split = data
    network = config.to_dict()  # not the plan's: a run that goes on from a checkpoint has that one's
    if plan.network.start_from is None:
        network["weights"] = plan.network.weights.name if plan.network.weights else None
        network["min_frequency"] = plan.network.min_frequency
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": plan.command,
        **({"recipe": dict(plan.recipe)} if plan.recipe else {}),
        "data": {
            "source": plan.data.source.name,
            "references": plan.data.references.name if plan.data.references else None,
            "train_images": len(learning),
            "train_captions": sum(len(texts) for texts in learning.captions),
            "validation_images": len(validating),
        },
        "validation_split": split,
        "network": network,
        "options": plan.options.to_dict(),
        "precision": str(plan.machine.precision),
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in ("capt", "torch", "numpy", "pillow")}},
        **facts,
    }
