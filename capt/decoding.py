"""From an encoded image to its caption: greedy and beam search over all images at once, and the likelihood of given captions.

In: a decoder and encoded images. Out: a Hypothesis each. Apart, because training, the batch job and benchmarks all search, and
none of them should know how.

Sources:
    Xu et al. 2015 (beam search over an attention decoder); Wu et al. 2016 (length penalty); Paulus et al. 2018 (n-gram blocking).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import getitem
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from capt.errors import InputError
from capt.model import Decoder
from capt.packing import pad_captions
from capt.vocabulary import Vocabulary

FORBIDDEN = (Vocabulary.pad, Vocabulary.start, Vocabulary.unk)
"""What no caption may contain, however likely the decoder finds it."""

_MAX_BEAM_SIZE = 100


class Predictor(Protocol):
    """What can write captions: a `Decoder`, or several as one `EnsembleDecoder`. Memory and state are its own business."""

    def remember(self, encoder_out: Tensor, /) -> Any:  # noqa: ANN401
        """Make of encoded images `(N, P, D)` what every step reads, once."""
        ...

    def begin(self, memory: Any, captions: int, /) -> Any:  # noqa: ANN401
        """Make the first state of so many captions of each image."""
        ...

    def predict(self, memory: Any, words: Tensor, state: Any, /) -> tuple[Tensor, Any, Tensor]:  # noqa: ANN401
        """Give log probabilities `(N, K, V)` of what follows the words `(N, K)`, the state after, and alpha `(N, K, P)`."""
        ...

    def __call__(
        self, encoder_out: Tensor, encoded_captions: Tensor, caption_lengths: Tensor, /
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Read given captions and predict each next word, as `Decoder.forward` does."""
        ...


@dataclass(frozen=True, kw_only=True)
class DecodingOptions:
    """How captions are searched.

    Args:
        beam_size: K, captions kept open per image; 1 is greedy.
        max_length: Longest caption, in words.
        min_length: Shortest caption, in words.
        length_penalty: α of Wu et al. 2016; 0 compares plain log probabilities, 1 favours long captions.
        block_ngrams: No caption repeats a run of this many words; 0 allows repetition.
        alternatives: How many other captions to return for each image, at most beam_size − 1.
    """

    beam_size: int = 3
    max_length: int = 20
    min_length: int = 1
    length_penalty: float = 1.0
    block_ngrams: int = 2
    alternatives: int = 0

    def __post_init__(self) -> None:
        """Check that the options can be met together.

        Raises:
            InputError: If not, naming the option and what it may be.
        """
        rules = (
            ("beam-size", f"1 to {_MAX_BEAM_SIZE}", self.beam_size, 1 <= self.beam_size <= _MAX_BEAM_SIZE),
            ("max-length", "at least 1 word", self.max_length, self.max_length >= 1),
            ("min-length", f"0 to --max-length ({self.max_length})", self.min_length, 0 <= self.min_length <= self.max_length),
            ("length-penalty", "0 or more", self.length_penalty, math.isfinite(self.length_penalty) and self.length_penalty >= 0),
            ("block-ngrams", "0 (off) or more", self.block_ngrams, self.block_ngrams >= 0),
            ("alternatives", "0 or more, below --beam-size", self.alternatives, 0 <= self.alternatives < self.beam_size),
        )
        for name, allowed, value, kept in rules:
            if not kept:
                message = f"--{name} must be {allowed}, not {value}."
                raise InputError(message)


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """A caption that the search found.

    Args:
        indices: Its words, without `<start>` and `<end>`.
        log_prob: Of words and `<end>`, nats, summed, before the length penalty.
        num_tokens: Words plus `<end>`.
        alternatives: The next best captions of the same image, best first.
        alphas: Where the network looked at each word, `(words, P)` on the CPU, when asked for.
    """

    indices: tuple[int, ...]
    log_prob: float
    num_tokens: int
    alternatives: tuple["Hypothesis", ...] = ()
    alphas: Tensor | None = None


def length_normaliser(tokens: int, length_penalty: float) -> float:
    """Give the number by which the log probability of a caption is divided before captions are compared.

    Args:
        tokens: Words plus `<end>`.
        length_penalty: α.

    Returns:
        ((5 + tokens) / 6)^α.

    Source:
        Wu et al. 2016, equation 14.
    """
    return float(((5.0 + tokens) / 6.0) ** length_penalty)


def decode(decoder: Predictor, encoder_out: Tensor, options: DecodingOptions, *, with_alphas: bool = False) -> list[Hypothesis]:
    """Find a caption for each image, greedily at beam size 1, by beam search above.

    Args:
        decoder: In eval mode, on the device of `encoder_out`.
        encoder_out: Encoded images, `(N, P, D)` float.
        options: How to search.
        with_alphas: Whether to keep where the network looked.

    Returns:
        N hypotheses, in input order.

    Raises:
        ValueError: If `encoder_out` has not three dimensions.
    """
    if encoder_out.dim() != 3:  # noqa: PLR2004 - N, P, D
        message = f"encoder_out must be (N, P, D), not {tuple(encoder_out.shape)}"
        raise ValueError(message)
    if encoder_out.shape[0] == 0:
        return []
    search = greedy_search if options.beam_size == 1 else beam_search
    with torch.inference_mode():
        return search(decoder, encoder_out, options, with_alphas=with_alphas)


def greedy_search(
    decoder: Predictor, encoder_out: Tensor, options: DecodingOptions, *, with_alphas: bool = False
) -> list[Hypothesis]:
    """Take the likeliest word at each step.

    Args:
        decoder: In eval mode.
        encoder_out: `(N, P, D)`.
        options: Beam size, length penalty and alternatives do not matter here.
        with_alphas: Whether to keep where the network looked.

    Returns:
        N hypotheses, in input order.
    """
    images, cells = encoder_out.shape[:2]
    memory = decoder.remember(encoder_out)
    state = decoder.begin(memory, 1)
    words = encoder_out.new_full((images, 1), Vocabulary.start, dtype=torch.long)
    written = words.new_empty((images, 1, 0))
    looked = encoder_out.new_empty((images, 1, 0, cells)) if with_alphas else None
    told, log_prob = np.empty((images, 0), np.int32), np.zeros(images, np.float32)
    active = np.arange(images)
    found: list[Hypothesis | None] = [None] * images
    for position in range(options.max_length + 1):
        log_probs, state, alpha = _next_words(decoder, (memory, state), words, written, options)
        best, words = log_probs[:, 0].max(-1, keepdim=True)  # (M, 1)
        costs, chosen = _fetch(best, words)
        log_prob += costs[:, 0]
        ended = chosen[:, 0] == Vocabulary.end
        done = ended.nonzero()[0]
        for row, alphas in zip(done, _fetch_alphas(looked, done), strict=True):
            found[active[row]] = Hypothesis(
                indices=tuple(told[row].tolist()),
                log_prob=float(log_prob[row]),
                num_tokens=position + 1,
                alphas=None if alphas is None else alphas[0],
            )
        if ended.all():
            break
        written, told = torch.cat([written, words.unsqueeze(1)], -1), np.concatenate([told, chosen], -1)
        looked = None if looked is None else torch.cat([looked, alpha.unsqueeze(2)], 2)
        if ended.any():
            active, told, log_prob = active[~ended], told[~ended], log_prob[~ended]
            rows = torch.from_numpy((~ended).nonzero()[0]).to(written.device)
            memory, state = memory.select(rows), state.each(getitem, rows)
            words, written, looked = words[rows], written[rows], None if looked is None else looked[rows]
    return [hypothesis for hypothesis in found if hypothesis is not None]


@dataclass(frozen=True, kw_only=True)
class _Beams:
    """The open captions of the images still searched; the last axis of `written` and `looked` before P is the words so far.

    What is here twice is on the device for the next step and in arrays for what is decided, so that nothing is asked for twice.
    """

    images: NDArray[np.int64]  # M, which image each row is
    memory: Any  # of the predictor
    state: Any  # of M images and K captions
    log_prob: Tensor  # (M, K), −inf where there is no beam
    costs: NDArray[np.float32]  # the same
    written: Tensor  # (M, K, T)
    told: NDArray[np.int32]  # the same
    looked: Tensor | None  # (M, K, T, P)

    def select(self, rows: NDArray[np.int64]) -> "_Beams":
        index = torch.from_numpy(rows).to(self.log_prob.device)
        return _Beams(
            images=self.images[rows],
            memory=self.memory.select(index),
            state=self.state.each(getitem, index),
            log_prob=self.log_prob[index],
            costs=self.costs[rows],
            written=self.written[index],
            told=self.told[rows],
            looked=None if self.looked is None else self.looked[index],
        )


@dataclass(frozen=True, kw_only=True)
class _Found:
    """The best captions of each image that ended, as many as are returned, with their scores."""

    wanted: int
    ranked: list[list[tuple[float, Hypothesis]]]  # of N images, best first, of equals the earlier
    worst: NDArray[np.float64]  # (N,) score of the last one, −inf while there are fewer than are wanted

    @classmethod
    def none(cls, images: int, wanted: int) -> "_Found":
        return cls(wanted=wanted, ranked=[[] for _ in range(images)], worst=np.full(images, -math.inf))

    def add(self, image: int, score: float, hypothesis: Hypothesis) -> None:
        ranked = self.ranked[image]
        ranked.append((score, hypothesis))
        ranked.sort(key=lambda pair: -pair[0])
        del ranked[self.wanted :]
        if len(ranked) == self.wanted:
            self.worst[image] = ranked[-1][0]


def beam_search(
    decoder: Predictor, encoder_out: Tensor, options: DecodingOptions, *, with_alphas: bool = False
) -> list[Hypothesis]:
    """Find the likeliest caption of each image by beam search.

    All images advance together; one leaves the batch when none of its open beams would win with one more word. At the longest
    length an open beam is closed with the `<end>` it would need, so that there is always a caption.

    Args:
        decoder: In eval mode, on the device of `encoder_out`.
        encoder_out: Encoded images, `(N, P, D)` float.
        options: Beam size; lengths; length penalty; n-gram blocking; alternatives.
        with_alphas: Whether to keep where the network looked.

    Returns:
        N hypotheses, in input order; `log_prob` in nats, summed, before the penalty.

    Source:
        Xu et al. 2015 (Show, Attend and Tell); length penalty of Wu et al. 2016; when to stop as in Wolf et al. 2020
        (Transformers, `early_stopping=False`).
    """
    images, cells = encoder_out.shape[:2]
    found = _Found.none(images, options.alternatives + 1)
    first = np.zeros((images, 1), np.float32)
    memory = decoder.remember(encoder_out)
    beams = _Beams(
        images=np.arange(images),
        memory=memory,
        state=decoder.begin(memory, 1),
        log_prob=torch.from_numpy(first).to(encoder_out.device),
        costs=first,
        written=encoder_out.new_empty((images, 1, 0), dtype=torch.long),
        told=np.empty((images, 1, 0), np.int32),
        looked=encoder_out.new_empty((images, 1, 0, cells)) if with_alphas else None,
    )
    for _ in range(options.max_length + 1):
        beams = _advance(decoder, beams, options, found)
        going = _can_still_win(beams, found, options)
        if len(going) == 0:
            break
        if len(going) < len(beams.images):
            beams = beams.select(going)
    return [_with_alternatives([hypothesis for _, hypothesis in ranked]) for ranked in found.ranked]


def _advance(decoder: Predictor, beams: _Beams, options: DecodingOptions, found: _Found) -> _Beams:
    """Write one more word in every beam, of which the first step makes several; captions that end are put among the finished."""
    beam_size, length = options.beam_size, beams.written.shape[-1]
    start = beams.written.new_full((*beams.log_prob.shape, 1), Vocabulary.start)
    previous = torch.cat([start, beams.written], -1)[..., -1]  # (M, K)
    log_probs, state, alpha = _next_words(decoder, (beams.memory, beams.state), previous, beams.written, options)
    vocab_size = log_probs.shape[-1]
    totals = (beams.log_prob.unsqueeze(-1) + log_probs).flatten(1)  # (M, K·V)
    best, flat = totals.topk(min(2 * beam_size, totals.shape[1]), -1)  # ended ones are at most K of these
    log_prob, kept = best.masked_fill(flat % vocab_size == Vocabulary.end, -math.inf).topk(min(beam_size, best.shape[1]), -1)
    going = flat.gather(1, kept)  # (M, K) the best that go on
    origin, word = going // vocab_size, going % vocab_size
    scores, candidates, costs, chosen = _fetch(best, flat, log_prob, going)
    ends = (candidates % vocab_size == Vocabulary.end) & np.isfinite(scores)
    worth = scores.astype(np.float64) / length_normaliser(length + 1, options.length_penalty)
    rows, columns = (ends & (worth > found.worst[beams.images, None])).nonzero()
    ended = candidates[rows, columns] // vocab_size
    seen = _fetch_alphas(beams.looked, rows, ended)
    for row, column, beam, alphas in zip(rows, columns, ended, seen, strict=True):
        indices = tuple(beams.told[row, beam].tolist())
        hypothesis = Hypothesis(indices=indices, log_prob=float(scores[row, column]), num_tokens=length + 1, alphas=alphas)
        found.add(beams.images[row], worth[row, column], hypothesis)
    told = np.take_along_axis(beams.told, (chosen // vocab_size)[..., None], 1)
    return _Beams(
        images=beams.images,
        memory=beams.memory,
        state=state.each(_reorder, origin),
        log_prob=log_prob,
        costs=costs,
        written=torch.cat([_reorder(beams.written, origin), word.unsqueeze(-1)], -1),
        told=np.concatenate([told, (chosen % vocab_size)[..., None]], -1),
        looked=None if beams.looked is None else _reorder(torch.cat([beams.looked, alpha.unsqueeze(2)], 2), origin),
    )


def _fetch(*values: Tensor) -> list[NDArray[Any]]:
    """Bring what a step decided, float32 and indices, (M, X) each, from the device: all at once, because each time is a wait."""
    packed = [each.contiguous().view(torch.int32) if each.is_floating_point() else each.int() for each in values]
    fetched = torch.cat(packed, -1).cpu().numpy()
    parts = np.split(fetched, np.cumsum([each.shape[-1] for each in values])[:-1], axis=-1)
    pairs = zip(parts, values, strict=True)
    return [np.ascontiguousarray(part).view(np.float32) if each.is_floating_point() else part for part, each in pairs]


def _fetch_alphas(looked: Tensor | None, *places: NDArray[np.integer[Any]]) -> list[Tensor | None]:
    """Bring where the network looked, for the captions that ended, from the device; None for each where it was not kept."""
    if looked is None or len(places[0]) == 0:
        return [None] * len(places[0])
    index = tuple(torch.from_numpy(each.astype(np.int64)).to(looked.device) for each in places)
    return list(looked[index].cpu())


def _can_still_win(beams: _Beams, found: _Found, options: DecodingOptions) -> NDArray[np.int64]:
    """Name the rows where an open beam may yet beat the worst caption that would be returned.

    An open beam is taken for what it would be worth after one more word at no cost: further words cost more than the greater
    length is worth. (That is so in practice, not in theory: benchmarks/RESULTS.md tells how often it changes a caption.)
    """
    ending = beams.written.shape[-1] + 2  # tokens of a caption that ends after one more word
    bounds = beams.costs.max(-1) / length_normaliser(ending, options.length_penalty)
    going: NDArray[np.int64] = np.flatnonzero(bounds > found.worst[beams.images])
    return going


def _with_alternatives(ranked: Sequence[Hypothesis]) -> Hypothesis:
    return replace(ranked[0], alternatives=tuple(ranked[1:]))


def _next_words(
    decoder: Predictor, reading: tuple[Any, Any], previous: Tensor, written: Tensor, options: DecodingOptions
) -> tuple[Tensor, Any, Tensor]:
    """Give the log probabilities (M, K, V) of every next word, −inf for those that may not follow."""
    memory, before = reading
    log_probs, state, alpha = decoder.predict(memory, previous, before)
    length = written.shape[-1]
    for word in FORBIDDEN:
        log_probs[..., word] = -math.inf
    ending = log_probs[..., Vocabulary.end].clone()
    if length < options.min_length:
        log_probs[..., Vocabulary.end] = -math.inf
    if options.block_ngrams:
        _forbid_repeats(log_probs, written, options.block_ngrams)
        stuck = log_probs.amax(-1) == -math.inf  # every word would repeat: the caption ends, short as it is
        log_probs[..., Vocabulary.end] = torch.where(stuck, ending, log_probs[..., Vocabulary.end])
    if length == options.max_length:
        log_probs[..., Vocabulary.end + 1 :] = -math.inf
    return log_probs, state, alpha


def _forbid_repeats(log_probs: Tensor, written: Tensor, size: int) -> None:
    """Forbid every word that would complete a run of `size` words that the caption already has."""
    length = written.shape[-1]
    if length < size:
        return
    runs = written.unfold(-1, size, 1)  # (M, K, length − size + 1, size)
    ending = written[..., length - size + 1 :].unsqueeze(2)  # (M, K, 1, size − 1)
    repeated = (runs[..., :-1] == ending).all(-1)  # (M, K, runs)
    following = runs[..., -1].masked_fill(~repeated, Vocabulary.pad)  # <pad> is forbidden anyway
    log_probs.scatter_(-1, following, -math.inf)


def _reorder(values: Tensor, origin: Tensor) -> Tensor:
    """Give each beam (M, K, …) what belongs to the beam it came from (M, K)."""
    index = origin.reshape(*origin.shape, *(1,) * (values.dim() - 2)).expand(-1, -1, *values.shape[2:])
    return values.gather(1, index)


class Drawn(NamedTuple):
    """Captions drawn at random for N images, K each."""

    captions: Tensor  # (N, K, L) indices from <start> on, padded
    lengths: Tensor  # (N, K) tokens drawn, <end> counted where the caption came to it
    nll: Tensor  # (N, K) −log p of the tokens drawn, nats, summed


def sample_captions(
    decoder: Decoder, encoder_out: Tensor, samples: int, max_length: int, *, detected: Tensor | None = None
) -> Drawn:
    """Draw captions at random, each as often as the decoder finds it likely, words that no caption may contain left out.

    All captions of all images advance together and look at their image's map together; what has ended costs nothing any more.

    Args:
        decoder: On the device of `encoder_out`; in training mode it drops units while it draws, the same when it is judged.
        encoder_out: Encoded images, `(N, P, D)`.
        samples: K, captions an image.
        max_length: Tokens after which a caption stops, `<end>` or not.
        detected: Logits of the words that are to count as detected, `(N, W)`; None asks the decoder's own detector.

    Returns:
        The captions, and how unlikely each was, with its gradient where gradients are computed. Randomness is torch's.
    """
    images, device = len(encoder_out), encoder_out.device
    memory = decoder.remember(encoder_out, detected)
    state = decoder.begin(memory, samples).each(lambda values: values.flatten(0, 1).unsqueeze(0))  # (1, M, …)
    captions = torch.full((images * samples, max_length + 1), Vocabulary.pad, device=device)
    captions[:, 0] = Vocabulary.start
    which = torch.arange(images * samples, device=device)  # (M,) captions that go on
    words = torch.full_like(which, Vocabulary.start)  # (M,) their last
    read: list[Tensor] = []  # of each step (M, E)
    tokens: list[Tensor] = []
    owners: list[Tensor] = []
    for position in range(1, max_length + 1):
        image = which // samples
        gates, added = decoder.read_words(words), None
        if memory.seen is not None:
            gates, added = gates + memory.seen.gates[image, 0], memory.seen.readout[image, 0]
        state, _ = decoder.step(memory, gates.unsqueeze(0), state, image.bincount(minlength=images).tolist())
        read.append(decoder.read_out(state.h[0], None if state.context is None else state.context[0], added))
        with torch.no_grad():
            words = _drawable(decoder, read[-1]).softmax(-1).multinomial(1)[:, 0]  # (M,)
        tokens.append(words)
        owners.append(which)
        captions[which, position] = words
        going = (words != Vocabulary.end).nonzero()[:, 0]
        if len(going) == 0:
            break
        if len(going) < len(which):
            which, words, state = which[going], words[going], state.each(torch.index_select, 1, going)
    logits = _drawable(decoder, torch.cat(read))
    losses = torch.nn.functional.cross_entropy(logits, torch.cat(tokens), reduction="none")
    nll = losses.new_zeros(images * samples).index_add(0, torch.cat(owners), losses)
    lengths = (captions[:, 1:] != Vocabulary.pad).sum(-1)
    return Drawn(captions.view(images, samples, -1), lengths.view(images, samples), nll.view(images, samples))


def _drawable(decoder: Decoder, read: Tensor) -> Tensor:
    """Give the logits (M, V) of what was read out of the state (M, E), −inf for what no caption may contain."""
    logits: Tensor = decoder.output(read).float()
    return logits.index_fill(-1, torch.tensor(FORBIDDEN, device=read.device), -math.inf)


def reference_nll(
    decoder: Predictor, encoder_out: Tensor, references: Sequence[Sequence[Sequence[int]]]
) -> list[list[tuple[float, int]]]:
    """Compute how unlikely the decoder finds given captions.

    Args:
        decoder: In eval mode, on the device of `encoder_out`.
        encoder_out: Encoded images, `(N, P, D)`.
        references: For each image its captions, each from `<start>` to `<end>`; an image may have none.

    Returns:
        For each image and caption: summed −log p in nats, and the number of tokens (words plus `<end>`).
    """
    if not any(references):
        return [[] for _ in references]
    encoded, lengths = pad_captions(references)
    with torch.inference_mode():
        logits, targets, _ = decoder(encoder_out, encoded.to(encoder_out.device), lengths.to(encoder_out.device))
        nll = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none").double().cpu()
    tokens = (lengths - 1).clamp(min=0)
    sums = torch.stack([part.sum() for part in nll.split(tokens.flatten().tolist())]).view_as(tokens)
    told = [list(zip(*image, strict=True)) for image in zip(sums.tolist(), tokens.tolist(), strict=True)]
    return [image[: len(captions)] for image, captions in zip(told, references, strict=True)]
