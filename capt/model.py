"""The captioner: attention over a grid of image features, and an LSTM that reads the previous word and the attended context.

In: images, or an encoded grid, and words so far. Out: logits over the vocabulary and where the network looked. One file, in
the order of understanding: configuration, detected words, decoder, captioner; attention is `capt.attention`.

Sources:
    Xu et al. 2015, Show, Attend and Tell: soft attention, gate β, h and c from the mean feature, doubly stochastic
    regularisation, words read out of state and context. Lu et al. 2017, Knowing When to Look: attention that follows the state
    that the word is read out of. Bahdanau et al. 2015: additive attention. Hochreiter and Schmidhuber 1997, Gers et al. 2000:
    LSTM. Press and Wolf 2017: embeddings tied with the output. Bengio et al. 2015: scheduled sampling.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from capt.attention import Attention, Memory, Seen
from capt.encoder import Encoder, EncoderConfig
from capt.images import Preprocessing
from capt.packing import PackedCaptions, PackedStep


class Precision(StrEnum):
    """In which numbers the encoder computes; the decoder computes in float32 when captioning. Only OpenVINO knows int8."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    INT8 = "int8"


_LIKELIHOOD_SCALE = 4.0  # likelihoods are mostly near 0; their projection begins with larger weights
DROPOUTS = ("dropout", "embedding_dropout", "feature_dropout", "detected_dropout")
"""The fields of a configuration that are shares dropped in training."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that decides the shapes of the network; part of a checkpoint.

    Args:
        encoder: Which encoder.
        vocab_size: V, words known, special ones included.
        encoder_dim: D, channels of a grid cell.
        embed_dim: E, dimension of a word's embedding.
        decoder_dim: H, dimension of the LSTM's state.
        attention_dim: A, dimension in which grid and state are compared; 0 does not attend: every word reads the mean cell.
        dropout: Share of the state's units dropped in training, where a word is read out of it.
        tie_embeddings: Whether the output layer uses the embeddings as its weights.
        embedding_dropout: Share of a read word's embedding dropped in training.
        feature_dim: F, dimension to which a grid cell is projected before anything reads it; 0 reads the cell as it is.
        feature_dropout: Share of a projected cell dropped in training.
        context_readout: Whether a word is read out of the attended context too, not of the LSTM's state alone. Attention then
            follows the state that the word is read out of, and the LSTM reads that context with the next word.
        detected_words: W, words of which a detector says how likely people use them about the image; the decoder reads all these
            likelihoods at the start and at every step. 0 reads none.
        detected_dim: R, dimension to which they are projected.
        detected_dropout: Share of the projected likelihoods dropped in training.
    """

    encoder: EncoderConfig
    vocab_size: int
    encoder_dim: int
    embed_dim: int = 300
    decoder_dim: int = 512
    attention_dim: int = 512
    dropout: float = 0.5
    tie_embeddings: bool = True
    embedding_dropout: float = 0.0
    feature_dim: int = 0
    feature_dropout: float = 0.0
    context_readout: bool = False
    detected_words: int = 0
    detected_dim: int = 512
    detected_dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check that the sizes can be.

        Raises:
            ValueError: If a size is not positive (A, F and W may be 0) or a dropout is not in [0, 1).
        """
        may_be_none = {"attention_dim", "feature_dim", "detected_words"}
        for name in ("vocab_size", "encoder_dim", "embed_dim", "decoder_dim", "detected_dim", *sorted(may_be_none)):
            least = 0 if name in may_be_none else 1
            if getattr(self, name) < least:
                message = f"{name} must be at least {least}, not {getattr(self, name)}"
                raise ValueError(message)
        for name in DROPOUTS:
            if not 0 <= getattr(self, name) < 1:
                message = f"{name} must be at least 0 and below 1, not {getattr(self, name)}"
                raise ValueError(message)

    @property
    def context_dim(self) -> int:
        """C, channels of a cell as the decoder reads it: F, or D where cells are not projected."""
        return self.feature_dim or self.encoder_dim

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON can hold them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """Read what `to_dict` wrote.

        Args:
            values: The fields.

        Returns:
            The configuration.

        Raises:
            TypeError: If a field is missing that every checkpoint has, unknown or of another type.
            ValueError: If a value cannot be.
        """
        return cls(**{**values, "encoder": EncoderConfig(**values["encoder"])})


class State(NamedTuple):
    """The LSTM's state of K captions of each of N images."""

    h: Tensor  # (N, K, H)
    c: Tensor  # (N, K, H)
    context: Tensor | None = None  # (N, K, C) attended from h, gated; only where words are read out of it

    def each(self, change: Callable[..., Tensor], *arguments: object) -> "State":
        """Change all alike.

        Args:
            change: From `(N, K, X)` to the same of other images or captions.
            *arguments: What it takes besides.

        Returns:
            The state of these.
        """
        there = {name: values for name, values in self._asdict().items() if values is not None}
        return State(**{name: change(values, *arguments) for name, values in there.items()})


class DetectedWords(nn.Module):
    """Which words people would use about an image, and what follows from that for every word of its caption.

    The detector is a linear layer on the mean cell of the encoder's grid; it learns before the decoder, and not with it.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Build the layers with random weights.

        Args:
            config: Sizes D, W, R, H and E.
        """
        super().__init__()
        words, dim = config.detected_words, config.detected_dim
        self.detector = nn.Linear(config.encoder_dim, words).requires_grad_(requires_grad=False)
        self.projection = nn.Linear(words, dim)
        self.start = nn.Linear(dim, 2 * config.decoder_dim, bias=False)
        self.gates = nn.Linear(dim, 4 * config.decoder_dim, bias=False)
        self.readout = nn.Linear(dim, config.embed_dim, bias=False)
        self.projected_dropout = nn.Dropout(config.detected_dropout)
        self.readout_dropout = nn.Dropout(config.dropout)

    @torch.no_grad()
    def adopt(self, weight: Tensor, bias: Tensor) -> None:
        """Take a detector.

        Args:
            weight: Of its linear layer, `(W, D)`.
            bias: Of the same, `(W,)`.
        """
        self.detector.weight.copy_(weight)
        self.detector.bias.copy_(bias)

    @torch.no_grad()
    def begin_with(self, frequencies: Tensor) -> None:
        """Begin by reading how much likelier words are than usual; for a new decoder.

        Args:
            frequencies: How likely each word is of any image, 0 to 1, `(W,)`.
        """
        self.projection.weight.mul_(_LIKELIHOOD_SCALE)
        self.projection.bias.sub_(self.projection.weight @ frequencies.to(self.projection.weight))

    def detect(self, encoder_out: Tensor) -> Tensor:
        """Judge which words people would use.

        Args:
            encoder_out: `(N, P, D)`.

        Returns:
            A logit for each word, `(N, W)`.
        """
        logits: Tensor = self.detector(encoder_out.mean(1))
        return logits

    def forward(self, logits: Tensor) -> Seen:
        """Say what the detected words add to the decoder.

        Args:
            logits: `(N, W)`.

        Returns:
            What is added to the first state, to every step's gates and to what every word is read out of.
        """
        read = self.projected_dropout(self.projection(logits.sigmoid()).relu())
        return Seen(self.start(read), self.gates(read).unsqueeze(1), self.readout(self.readout_dropout(read)).unsqueeze(1))


class Decoder(nn.Module):
    """An LSTM that writes a caption word by word while it attends over the image."""

    def __init__(self, config: ModelConfig) -> None:
        """Build the decoder with random weights.

        Args:
            config: All sizes.
        """
        super().__init__()
        self.config = config
        context_dim, decoder_dim, embed_dim = config.context_dim, config.decoder_dim, config.embed_dim
        self.features = nn.Linear(config.encoder_dim, config.feature_dim) if config.feature_dim else None
        self.embedding = nn.Embedding(config.vocab_size, embed_dim, padding_idx=0)
        self.attention = Attention(context_dim, decoder_dim, config.attention_dim)
        self.initial = nn.Linear(context_dim, 2 * decoder_dim)  # mean feature -> h and c
        self.gate = nn.Linear(decoder_dim, context_dim)  # β: how much of the context this word needs
        self.word_gates = nn.Linear(embed_dim, 4 * decoder_dim)  # LSTM: input, forget, cell, output
        self.context_gates = nn.Linear(context_dim + decoder_dim, 4 * decoder_dim, bias=False)
        self.readout = nn.Linear(decoder_dim, embed_dim)
        self.context_readout = nn.Linear(context_dim, embed_dim, bias=False) if config.context_readout else None
        self.detected = DetectedWords(config) if config.detected_words else None
        self.output = nn.Linear(embed_dim, config.vocab_size)
        self.dropout = nn.Dropout(config.dropout)
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)
        self.feature_dropout = nn.Dropout(config.feature_dropout)
        self._word_table: Tensor | None = None
        self._initialise()

    def _initialise(self) -> None:
        nn.init.normal_(self.embedding.weight, std=self.config.embed_dim**-0.5)
        nn.init.zeros_(self.output.bias)
        with torch.no_grad():
            self.embedding.weight[0] = 0.0
            forget = slice(self.config.decoder_dim, 2 * self.config.decoder_dim)
            self.word_gates.bias[forget] = 1.0  # remember by default (Gers et al. 2000)
        if self.config.tie_embeddings:
            self.output.weight = self.embedding.weight

    def remember(self, encoder_out: Tensor, detected: Tensor | None = None) -> Memory:
        """Project the encoded images, once.

        Args:
            encoder_out: `(N, P, D)`.
            detected: Logits of the words that are to count as detected, `(N, W)`; None asks the decoder's own detector.

        Returns:
            What every step reads.
        """
        cells = encoder_out if self.features is None else self.feature_dropout(self.features(encoder_out).relu())
        seen = None
        if self.detected is not None:
            seen = self.detected(self.detected.detect(encoder_out) if detected is None else detected)
        return self.attention.remember(cells, seen)

    def begin(self, memory: Memory, captions: int) -> State:
        """Make the first state of K captions of each image, from its mean feature.

        Args:
            memory: N images.
            captions: K.

        Returns:
            h and c, `(N, K, H)` each, and where words are read out of the context, that.
        """
        start = self.initial(memory.cells.mean(1))
        h, c = (start if memory.seen is None else start + memory.seen.start).tanh().chunk(2, -1)
        context = None if self.context_readout is None else self._attend(memory, h.unsqueeze(1))[0]
        return State(h.unsqueeze(1), c.unsqueeze(1), context).each(Tensor.expand, -1, captions, -1)

    def _attend(self, memory: Memory, h: Tensor, counts: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Give the gated context (N, K, C) for states (N, K, H), and alpha (N, K, P)."""
        context, alpha = self.attention(memory, h, counts)
        return self.gate(h).sigmoid() * context, alpha

    def step(self, memory: Memory, words: Tensor, state: State, counts: Sequence[int] | None = None) -> tuple[State, Tensor]:
        """Advance every caption by one word.

        Args:
            memory: N images.
            words: The previous words' share of the LSTM's gates (`word_gates` of their embeddings), `(N, K, 4H)`.
            state: Before.
            counts: How many captions each image has, where they differ; words and state are then those of all, `(1, R, …)`, and
                what detected words add to the gates is among the words' share already.

        Returns:
            The state after, and alpha `(N, K, P)`: where the network looked for the word that comes next.
        """
        words = words if memory.seen is None or counts else words + memory.seen.gates
        if state.context is not None:
            h, c, _ = _advance(words + self.context_gates(torch.cat([state.context, state.h], -1)), state.c)
            context, alpha = self._attend(memory, h, counts)
            return State(h, c, context), alpha
        context, alpha = self._attend(memory, state.h, counts)
        return _advance(words + self.context_gates(torch.cat([context, state.h], -1)), state.c), alpha

    def predict(self, memory: Memory, words: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
        """Advance every caption by one word, and judge every word as the next one.

        Args:
            memory: N images.
            words: The previous words, `(N, K)`.
            state: Before.

        Returns:
            Log probabilities `(N, K, V)` float32, the state after, and alpha `(N, K, P)`.
        """
        state, alpha = self.step(memory, self.read_words(words), state)
        return self.logits(state.h, state.context, memory.added()).float().log_softmax(-1), state, alpha

    @torch.no_grad()
    def tabulate_words(self) -> None:
        """Compute every word's share of the LSTM's gates now, for a decoder whose weights will not change any more."""
        self._word_table = self.word_gates(self.embedding.weight)  # (V, 4H)

    def read_words(self, words: Tensor) -> Tensor:
        """Turn words into their share of the LSTM's gates.

        Args:
            words: Indices of any shape.

        Returns:
            The same shape with `4H` appended.
        """
        if self._word_table is not None:
            return nn.functional.embedding(words, self._word_table)
        gates: Tensor = self.word_gates(self.embedding_dropout(self.embedding(words)))
        return gates

    def read_distinct_words(self, words: Tensor) -> Tensor:
        """Do the same with many words of which most occur again: each is computed once, unless its units are dropped by chance.

        Args:
            words: Indices of any shape.

        Returns:
            The same shape with `4H` appended.
        """
        if self.training and self.embedding_dropout.p:
            return self.read_words(words)
        distinct, places = words.unique(return_inverse=True)
        return nn.functional.embedding(places, self.read_words(distinct))

    def read_out(self, h: Tensor, context: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
        """Turn states into what the words' embeddings are compared with.

        Args:
            h: State after the step, `(…, H)`.
            context: Its context, `(…, C)`, if it has one; without, that of no image.
            seen: What the detected words of its image add (`Memory.added`), if there are any, `(…, E)`.

        Returns:
            `(…, E)`.
        """
        read: Tensor = self.readout(self.dropout(h))
        if context is not None and self.context_readout is not None:
            read = read + self.context_readout(self.dropout(context))
        return read if seen is None else read + seen

    def logits(self, h: Tensor, context: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
        """Judge every word of the vocabulary as the next one.

        Args:
            h: State after the step, as in `read_out`.
            context: Its context, if it has one.
            seen: What detected words add.

        Returns:
            Raw logits, `(…, V)`.
        """
        logits: Tensor = self.output(self.read_out(h, context, seen))
        return logits

    def read_without_image(self, words: Tensor, detected: Tensor | None = None) -> Tensor:
        """Read captions of no image: what `forward` does with an image of zeros, without attending to it.

        Args:
            words: From `<start>` on, `(B, T)`.
            detected: Logits of the words that would be detected if there were an image, `(B, W)`, for a decoder that reads them.

        Returns:
            What each next word is read out of, `(B, T, E)`.
        """
        seen = None if self.detected is None or detected is None else self.detected(detected)
        start = self.initial.bias if seen is None else self.initial.bias + seen.start
        h, c = start.tanh().expand(len(words), -1).chunk(2, -1)
        recurrent = self.context_gates.weight[:, self.config.context_dim :]
        gates = self.read_distinct_words(words)
        hidden = []
        for read in (gates if seen is None else gates + seen.gates).unbind(1):
            h, c, _ = _advance(read + nn.functional.linear(h, recurrent), c)
            hidden.append(h)
        return self.read_out(torch.stack(hidden, 1), None, None if seen is None else seen.readout)

    @torch.no_grad()
    def ignore_images(self) -> None:
        """Let every image count for nothing, until training gives it weight: the decoder is then a model of language alone.

        What leads from the image to the state and to the words is set to 0; attention and gate stay as they are.
        """
        self.initial.weight.zero_()
        if self.context_readout is not None:
            self.context_readout.weight.zero_()
        self.context_gates.weight[:, : self.config.context_dim] = 0.0

    def forward(
        self,
        encoder_out: Tensor,
        encoded_captions: Tensor,
        caption_lengths: Tensor,
        *,
        sampling: float = 0.0,
        detected: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Read given captions and predict each next word (teacher forcing).

        Args:
            encoder_out: `(N, P, D)`.
            encoded_captions: K captions of each image, from `<start>` to `<end>`, padded, `(N, K, L)`.
            caption_lengths: With `<start>` and `<end>`, 0 for a caption that is not there, `(N, K)`.
            sampling: Probability with which a word that is read is not the given one but drawn from what the decoder just
                predicted (scheduled sampling).
            detected: Logits of the words that are to count as detected, `(N, W)`; None asks the decoder's own detector.

        Returns:
            Logits of the M predicted words, `(M, V)`; the words they should be, `(M,)`; alphas `(N, K, T, P)`, 0 after a
            caption's end. The M words stand in the order image, caption, step.
        """
        memory = self.remember(encoder_out, detected)
        packed = PackedCaptions(encoded_captions, caption_lengths)
        shares = None if sampling else packed.split(self.read_distinct_words(packed.words))  # T times (R, 4H)
        state = self.begin(memory, encoded_captions.shape[1]).each(packed.first)
        hidden, contexts, alphas = [], [], []
        for number, step in enumerate(packed):
            state = state if step.rows is None else state.each(torch.index_select, 1, step.rows)
            read = shares[number] if shares else self._read_own(step, memory, state, number and sampling)
            read = read if memory.seen is None else read + memory.seen.gates[step.images, 0]
            state, alpha = self.step(memory, read.unsqueeze(0), state, step.counts)
            hidden.append(state.h[0])
            contexts += [] if state.context is None else [state.context[0]]
            alphas.append(alpha[0])
        attended = packed.join(contexts) if contexts else None
        logits = self.logits(packed.join(hidden), attended, memory.added(packed.going))
        return logits, packed.targets, packed.spread(packed.join(alphas))

    def _read_own(self, step: PackedStep, memory: Memory, state: State, sampling: float) -> Tensor:
        """Read given words, some of them replaced by the decoder's own, drawn from its state before them; gives (R, 4H)."""
        words = step.words
        chosen = torch.rand(words.shape, device=words.device) < sampling
        if chosen.any():
            with torch.no_grad():
                context = None if state.context is None else state.context[0, chosen]
                seen = None if memory.seen is None else memory.seen.readout[step.images[chosen], 0]
                own = self.logits(state.h[0, chosen], context, seen).float().softmax(-1).multinomial(1)[:, 0]
            words = words.masked_scatter(chosen, own)
        return self.read_words(words)


def _advance(gates: Tensor, c: Tensor) -> State:
    """Turn the gates (…, 4H) of an LSTM and its cell (…, H) into its next state."""
    entering, forgetting, cell, leaving = gates.chunk(4, -1)
    c = forgetting.sigmoid() * c + entering.sigmoid() * cell.tanh()
    return State(leaving.sigmoid() * c.tanh(), c)


def doubly_stochastic_penalty(alphas: Tensor) -> Tensor:
    """Ask that over a whole caption every grid cell is looked at about equally.

    Args:
        alphas: `(N, K, T, P)`, 0 after a caption's end.

    Returns:
        Mean over captions and cells of (1 − Σ_t alpha)², a scalar.

    Source:
        Xu et al. 2015, equation 14.
    """
    return (1.0 - alphas.sum(2)).square().mean()


class Captioner(nn.Module):
    """Encoder and decoder, with the numbers that normalise an image."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, encoder: Encoder, preprocessing: Preprocessing) -> None:
        """Put an encoder and a new decoder together.

        Args:
            config: All sizes.
            encoder: Gives D channels.
            preprocessing: Mean and standard deviation of the encoder's training.
        """
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.decoder = Decoder(config)
        self.precision = Precision.FLOAT32
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)

    def set_dropout(self, **shares: float) -> None:
        """Change what is dropped in training.

        Args:
            **shares: Dropouts of the configuration; one not named stays.

        Raises:
            ValueError: If a share cannot be.
        """
        self.config = self.decoder.config = replace(self.config, **shares)  # type: ignore[arg-type] # shares are floats
        for name in ("dropout", "embedding_dropout", "feature_dropout"):
            getattr(self.decoder, name).p = getattr(self.config, name)
        if self.decoder.detected is not None:
            self.decoder.detected.projected_dropout.p = self.config.detected_dropout
            self.decoder.detected.readout_dropout.p = self.config.dropout

    def set_precision(self, precision: Precision | str) -> "Captioner":
        """Choose the numbers in which the encoder computes.

        Args:
            precision: One of `Precision`.

        Returns:
            Itself.
        """
        self.precision = Precision(precision)
        self.encoder.to(memory_format=torch.channels_last)
        return self

    def encode(self, images: Tensor) -> Tensor:
        """Encode images as they come from disk.

        Args:
            images: RGB, 0 to 255, `(N, S, S, 3)` uint8.

        Returns:
            `(N, P, D)` float32.
        """
        device = self.mean.device
        pixels = images.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div(255.0)  # (N, 3, S, S)
        normalised = (pixels - self.mean) / self.std
        low = self.precision in {Precision.BFLOAT16, Precision.FLOAT16}
        dtype = torch.float16 if self.precision is Precision.FLOAT16 else torch.bfloat16
        with torch.autocast(device.type, dtype=dtype, enabled=low):
            encoded: Tensor = self.encoder(normalised.contiguous(memory_format=torch.channels_last))
        return encoded.float()
