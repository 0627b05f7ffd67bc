"""Greedy and beam search against every sentence of a tiny language, and likelihoods against their definition."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from capt.decoding import DecodingOptions, Drawn, Hypothesis, decode, length_normaliser, reference_nll, sample_captions
from capt.encoder import EncoderConfig
from capt.errors import InputError
from capt.model import Decoder, ModelConfig
from capt.vocabulary import Vocabulary

P, D, V, N = 5, 6, 8, 7
END, UNK = Vocabulary.end, Vocabulary.unk
WORDS = range(4, V)
ALPHAS_TOLERANCE = 1e-4


def unpenalised(**choices: float) -> DecodingOptions:
    """Give options without length penalty and blocking, unless they are asked for."""
    return DecodingOptions(**{"length_penalty": 0.0, "block_ngrams": 0, **choices})  # type: ignore[arg-type] # ints are floats


def _decoder(seed: int = 0, spread: float = 1.0, end: float = 0.0, detected: int = 0) -> Decoder:
    """Make a random decoder; a larger spread makes it surer, `end` makes it like or loathe ending."""
    torch.manual_seed(seed)
    encoder = EncoderConfig(name="efficientnet_lite0")
    decoder = Decoder(
        ModelConfig(
            encoder=encoder,
            vocab_size=V,
            encoder_dim=D,
            embed_dim=4,
            decoder_dim=6,
            attention_dim=3,
            dropout=0.5,
            tie_embeddings=False,
            detected_words=detected,
            detected_dim=2,
            context_readout=True,  # the richer state; what has none is tested with the shipped checkpoint
        )
    )
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=spread)
    with torch.no_grad():
        if decoder.detected is not None:  # mild, so that captions end sooner or later all the same
            for parameter in decoder.detected.parameters():
                parameter.mul_(0.2)
        decoder.output.bias[END] += end
        decoder.output.bias[UNK] += 2.0  # <unk> is what a captioner likes to say
    return decoder.eval()


def _grid(images: int = N, seed: int = 1) -> Tensor:
    return torch.randn(images, P, D, generator=torch.Generator().manual_seed(seed))


def _log_prob(decoder: Decoder, grid: Tensor, words: Sequence[int]) -> float:
    """Sum the log probabilities of words and <end> for one image, by teacher forcing."""
    caption = torch.tensor([[[Vocabulary.start, *words, END]]])
    with torch.no_grad():
        logits, targets, _ = decoder(grid.unsqueeze(0), caption, torch.tensor([[len(words) + 2]]))
    return float(logits.double().log_softmax(-1).gather(1, targets.unsqueeze(1)).sum())


def _count_steps(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give a list that grows with every step of the decoder, by how many captions it reads."""
    steps: list[int] = []
    predict = decoder.predict

    def counted(memory: Any, words: Tensor, state: Any) -> Any:  # noqa: ANN401 - as Decoder.predict
        steps.append(words.numel())
        return predict(memory, words, state)

    monkeypatch.setattr(decoder, "predict", counted)
    return steps


def _repeats(words: Sequence[int], size: int) -> bool:
    runs = [tuple(words[k : k + size]) for k in range(len(words) - size + 1)]
    return len(set(runs)) < len(runs)


def _every_sentence(decoder: Decoder, grid: Tensor, options: DecodingOptions) -> list[tuple[float, tuple[int, ...]]]:
    """Score every sentence that the options allow, best first: the truth that a wide beam must find."""
    found = []
    for length in range(options.min_length, options.max_length + 1):
        for words in itertools.product(WORDS, repeat=length):
            if options.block_ngrams and _repeats(words, options.block_ngrams):
                continue
            normaliser = ((5 + length + 1) / 6) ** options.length_penalty
            found.append((_log_prob(decoder, grid, words) / normaliser, words))
    return sorted(found, reverse=True)


@pytest.mark.parametrize(
    "options",
    [
        unpenalised(beam_size=64, max_length=3),
        unpenalised(beam_size=64, max_length=3, min_length=0),
        unpenalised(beam_size=64, max_length=3, min_length=3),
        unpenalised(beam_size=64, max_length=3, length_penalty=1.0),
        unpenalised(beam_size=64, max_length=3, length_penalty=3.0, min_length=0),
        unpenalised(beam_size=64, max_length=3, block_ngrams=1),
        unpenalised(beam_size=64, max_length=3, block_ngrams=2, length_penalty=2.0),
        unpenalised(beam_size=64, max_length=3, alternatives=5),
    ],
    ids=str,
)
@pytest.mark.parametrize("end", [-30.0, -2.0, 2.0], ids=["never-ends", "long", "short"])
def test_a_wide_beam_finds_the_best_of_all_sentences(options: DecodingOptions, end: float) -> None:
    """With a beam as wide as the language, the search equals brute force: best sentence, its likelihood and the next best."""
    decoder, grid = _decoder(seed=2, end=end), _grid(3)
    for image, hypothesis in enumerate(decode(decoder, grid, options)):
        truth = _every_sentence(decoder, grid[image], options)
        ranked = [hypothesis, *hypothesis.alternatives]
        assert [found.indices for found in ranked] == [words for _, words in truth[: options.alternatives + 1]]
        assert hypothesis.log_prob == pytest.approx(_log_prob(decoder, grid[image], hypothesis.indices), abs=1e-4)
        assert hypothesis.num_tokens == len(hypothesis.indices) + 1


Scored = list[tuple[float, tuple[int, ...]]]


def _plain_rounds(decoder: Decoder, grid: Tensor, options: DecodingOptions) -> Iterator[tuple[Scored, Scored]]:
    """Search one image with lists and no early stop, the plainest beam search there is: what has ended and what is open."""
    beams: Scored = [(0.0, ())]
    finished: Scored = []
    for length in range(options.max_length + 1):
        candidates = []
        for log_prob, words in beams:
            caption = torch.tensor([[[Vocabulary.start, *words, END]]])
            with torch.no_grad():
                logits = decoder(grid.unsqueeze(0), caption, torch.tensor([[length + 2]]))[0][-1]
            following = logits.log_softmax(-1).tolist()
            allowed = [END] * (length >= options.min_length) + [*WORDS] * (length < options.max_length)
            candidates += [(log_prob + following[word], (*words, word)) for word in allowed]
        candidates.sort(reverse=True)
        best = candidates[: 2 * options.beam_size]
        finished += [
            (value / length_normaliser(len(words), options.length_penalty), words) for value, words in best if words[-1] == END
        ]
        beams = [(value, words) for value, words in best if words[-1] != END][: options.beam_size]
        yield finished, beams


def _plain_beam(decoder: Decoder, grid: Tensor, options: DecodingOptions) -> tuple[int, ...]:
    *_, (finished, _) = _plain_rounds(decoder, grid, options)
    return max(finished)[1][:-1]


@pytest.mark.parametrize(("beam_size", "length_penalty"), [(1, 0.0), (2, 0.0), (2, 1.5), (3, 0.0), (3, 1.5), (5, 0.0), (5, 1.5)])
@pytest.mark.parametrize("end", [-4.0, 0.0, 1.0])
def test_a_narrow_beam_finds_what_a_plain_search_finds(beam_size: int, length_penalty: float, end: float) -> None:
    """Searching all images at once and stopping early changes nothing against one image at a time without stopping."""
    decoder, grid = _decoder(seed=4, spread=1.5, end=end), _grid(12)
    options = unpenalised(beam_size=beam_size, max_length=6, min_length=1, length_penalty=length_penalty)
    plain = _plain_greedy if beam_size == 1 else _plain_beam
    assert [hypothesis.indices for hypothesis in decode(decoder, grid, options)] == [
        plain(decoder, image, options) for image in grid
    ]


@pytest.mark.parametrize("alternatives", [0, 1, 2])
@pytest.mark.parametrize("end", [-1.0, 1.0])
def test_an_image_is_searched_while_one_more_word_could_win(
    monkeypatch: pytest.MonkeyPatch, alternatives: int, end: float
) -> None:
    """No step more than that: an open beam, with one more word at no cost, beats the worst caption that would be returned."""
    decoder, expected = _decoder(seed=4, spread=1.5, end=end), []
    options = unpenalised(beam_size=3, max_length=8, length_penalty=1.0, alternatives=alternatives)
    for grid in _grid(12):
        for rounds, (finished, beams) in enumerate(_plain_rounds(decoder, grid, options), start=1):
            returned = sorted(finished, reverse=True)[: alternatives + 1]
            bound = max((value for value, _ in beams), default=-math.inf) / length_normaliser(rounds + 2, 1.0)
            if len(returned) > alternatives and bound <= returned[-1][0]:
                break
        expected.append(rounds)
    steps = _count_steps(decoder, monkeypatch)
    for grid, needed in zip(_grid(12), expected, strict=True):
        steps.clear()
        decode(decoder, grid.unsqueeze(0), options)
        assert len(steps) == needed
    assert min(expected) < options.max_length


def _plain_greedy(decoder: Decoder, grid: Tensor, options: DecodingOptions) -> tuple[int, ...]:
    words: list[int] = []
    while len(words) < options.max_length:
        caption = torch.tensor([[[Vocabulary.start, *words, END]]])
        with torch.no_grad():
            logits = decoder(grid.unsqueeze(0), caption, torch.tensor([[len(words) + 2]]))[0][-1]
        allowed = [*WORDS] + [END] * (len(words) >= options.min_length)
        word = max(allowed, key=lambda index: float(logits[index]))
        if word == END:
            break
        words.append(word)
    return tuple(words)


def test_a_beam_is_at_least_as_likely_as_greed() -> None:
    """Over many images a wider beam finds captions that are at least as likely on average."""
    decoder, grid = _decoder(seed=5, spread=1.2), _grid(40)
    means = [
        sum(found.log_prob for found in decode(decoder, grid, unpenalised(beam_size=size, max_length=6))) / 40
        for size in (1, 3, 8)
    ]
    assert means == sorted(means)


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("with_alphas", [False, True])
def test_a_caption_does_not_depend_on_its_company(beam_size: int, with_alphas: bool) -> None:  # noqa: FBT001 - a case
    """Batches of 1, 3 and all give the same captions in the same order."""
    decoder, grid = _decoder(seed=6, spread=1.2, end=-1.0), _grid(20)
    options = unpenalised(beam_size=beam_size, max_length=9, alternatives=beam_size - 1)
    whole = decode(decoder, grid, options, with_alphas=with_alphas)
    for size in (1, 3):
        parts = [found for batch in grid.split(size) for found in decode(decoder, batch, options, with_alphas=with_alphas)]
        assert [found.indices for found in parts] == [found.indices for found in whole]
        assert [found.log_prob for found in parts] == pytest.approx([found.log_prob for found in whole], abs=1e-4)
        for part, expected in zip(parts, whole, strict=True):
            assert [other.indices for other in part.alternatives] == [other.indices for other in expected.alternatives]
    assert len({found.indices for found in whole}) > 1  # the images do differ


@pytest.mark.parametrize("beam_size", [1, 2, 4])
def test_a_caption_that_would_never_end_is_ended(beam_size: int) -> None:
    """When no beam ends by itself, the caption has the greatest length and its likelihood counts the <end> it needs."""
    decoder, grid = _decoder(seed=7, end=-60.0), _grid(4)
    for image, hypothesis in enumerate(decode(decoder, grid, unpenalised(beam_size=beam_size, max_length=5))):
        assert len(hypothesis.indices) == 5
        assert hypothesis.num_tokens == 6
        assert hypothesis.log_prob == pytest.approx(_log_prob(decoder, grid[image], hypothesis.indices), rel=1e-4)


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("min_length", [0, 1, 4, 6])
def test_captions_keep_to_the_shortest_length(beam_size: int, min_length: int) -> None:
    """A decoder that wants to end at once writes min_length words."""
    options = unpenalised(beam_size=beam_size, max_length=6, min_length=min_length)
    lengths = {len(found.indices) for found in decode(_decoder(end=30.0), _grid(), options)}
    assert lengths == {min_length}


def test_an_empty_caption_is_possible_when_asked_for() -> None:
    """With min_length 0, <end> may come first: no words, one token."""
    found = decode(_decoder(end=60.0), _grid(2), unpenalised(min_length=0))
    assert [(hypothesis.indices, hypothesis.num_tokens) for hypothesis in found] == [((), 1), ((), 1)]


@pytest.mark.parametrize("beam_size", [1, 3])
def test_special_words_are_never_written(beam_size: int) -> None:
    """No caption and no alternative holds <pad>, <start>, <end> or <unk>, however likely the network finds them."""
    decoder = _decoder(seed=8)
    with torch.no_grad():
        decoder.output.bias[[Vocabulary.pad, Vocabulary.start, UNK]] += 40.0
    options = unpenalised(beam_size=beam_size, max_length=6, alternatives=beam_size - 1)
    for hypothesis in decode(decoder, _grid(), options):
        for found in (hypothesis, *hypothesis.alternatives):
            assert set(found.indices) <= set(WORDS)


@pytest.mark.parametrize("beam_size", [1, 4])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_run_of_words_is_repeated_when_blocked(beam_size: int, size: int) -> None:
    """With n-gram blocking no caption holds the same run of n words twice; without, this decoder repeats itself."""
    decoder, grid = _decoder(seed=9, spread=2.0, end=-6.0), _grid(10)
    options = unpenalised(beam_size=beam_size, max_length=4 if size == 1 else 10)
    free = decode(decoder, grid, options)
    blocked = decode(decoder, grid, replace(options, block_ngrams=size))
    assert any(_repeats(found.indices, size) for found in free)
    assert not any(_repeats(found.indices, size) for found in blocked)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_dead_end_still_gives_a_caption(beam_size: int) -> None:
    """When blocking leaves no word that may follow, the caption ends there, shorter than asked for."""
    options = unpenalised(beam_size=beam_size, max_length=10, min_length=8, block_ngrams=1)  # four words, each once
    for found in decode(_decoder(), _grid(3), options):
        assert sorted(found.indices) == list(WORDS)
        assert math.isfinite(found.log_prob)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_alternatives_are_other_captions_best_first(beam_size: int) -> None:
    """Alternatives are distinct, sorted, less likely than the caption, and true likelihoods."""
    decoder, grid = _decoder(seed=10), _grid(4)
    options = unpenalised(beam_size=beam_size, max_length=5, alternatives=beam_size - 1)
    for image, hypothesis in enumerate(decode(decoder, grid, options)):
        ranked = [hypothesis, *hypothesis.alternatives]
        assert len(ranked) == beam_size
        assert len({found.indices for found in ranked}) == beam_size
        assert [found.log_prob for found in ranked] == sorted((found.log_prob for found in ranked), reverse=True)
        for found in ranked:
            assert found.log_prob == pytest.approx(_log_prob(decoder, grid[image], found.indices), abs=1e-4)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_alphas_are_those_of_the_words_written(beam_size: int) -> None:
    """One row of attention a word, equal to what reading the caption again gives; rows sum to 1."""
    decoder, grid = _decoder(seed=11), _grid(5)
    for image, found in enumerate(decode(decoder, grid, unpenalised(beam_size=beam_size, max_length=5), with_alphas=True)):
        assert found.alphas is not None
        caption = torch.tensor([[[Vocabulary.start, *found.indices, END]]])
        with torch.no_grad():
            _, _, alphas = decoder(grid[image].unsqueeze(0), caption, torch.tensor([[len(found.indices) + 2]]))
        assert found.alphas.shape == (len(found.indices), P)
        torch.testing.assert_close(found.alphas, alphas[0, 0, : len(found.indices)], rtol=ALPHAS_TOLERANCE, atol=ALPHAS_TOLERANCE)


def test_alphas_are_left_out_unless_asked_for_and_empty_for_an_empty_caption() -> None:
    """Attention costs memory: None by default; a caption without words has no rows."""
    decoder, grid = _decoder(end=60.0), _grid(1)
    options = unpenalised(min_length=0)
    assert decode(decoder, grid, options)[0].alphas is None
    for beam_size in (1, 3):
        alphas = decode(decoder, grid, replace(options, beam_size=beam_size), with_alphas=True)[0].alphas
        assert alphas is not None
        assert alphas.shape == (0, P)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_the_grid_is_projected_once_per_image_whatever_the_beam(beam_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The projection of the encoder map runs once over (N, P, D): not per step, not per beam."""
    decoder = _decoder()
    calls: list[tuple[int, ...]] = []
    forward = decoder.attention.grid_projection.forward

    def counted(grid: Tensor) -> Tensor:
        calls.append(tuple(grid.shape))
        return forward(grid)

    monkeypatch.setattr(decoder.attention.grid_projection, "forward", counted)
    decode(decoder, _grid(), unpenalised(beam_size=beam_size))
    assert calls == [(N, P, D)]


def test_finished_images_leave_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images whose caption is found are no longer computed."""
    decoder = _decoder(seed=6, spread=1.2)
    sizes: list[int] = []
    step = decoder.step

    def counted(memory, words, state):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - as Decoder.step
        sizes.append(len(memory.cells))
        return step(memory, words, state)

    monkeypatch.setattr(decoder, "step", counted)
    decode(decoder, _grid(30), unpenalised(beam_size=3, max_length=12))
    assert sizes[0] == 30
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 30


class _Questions(TorchFunctionMode):
    """Counts what makes a processor wait for a device: values that Python asks for, and shapes that depend on values."""

    NAMES = frozenset({"item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__"})
    SHAPES = frozenset({"nonzero", "masked_select", "unique", "argwhere", "repeat_interleave"})

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        name = func.__name__
        indices = args[1] if name in {"__getitem__", "__setitem__"} else ()
        masks = [
            each for each in (indices if isinstance(indices, tuple) else (indices,)) if getattr(each, "dtype", None) == torch.bool
        ]
        if name in self.NAMES | self.SHAPES or masks:
            self.asked.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("with_alphas", [False, True])
@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_device_is_asked_once_a_step(monkeypatch: pytest.MonkeyPatch, beam_size: int, with_alphas: bool) -> None:  # noqa: FBT001
    """However many captions end: what a step decided comes in one piece, in a second one where those that ended looked."""
    monkeypatch.setattr("capt.attention._has_cache", lambda _: False)  # as on a device
    decoder = _decoder(seed=5, spread=2.0)
    steps = _count_steps(decoder, monkeypatch)
    with _Questions() as questions:
        found = decode(decoder, _grid(30), DecodingOptions(beam_size=beam_size, max_length=12), with_alphas=with_alphas)
    assert len({hypothesis.num_tokens for hypothesis in found}) > 2
    fetched = [name for name in questions.asked if name == "cpu"]
    assert len(steps) <= len(fetched) <= (2 if with_alphas else 1) * len(steps)
    assert [name for name in questions.asked if name != "cpu"] == ["numpy"] * len(steps)  # of what was fetched


def test_no_images_give_no_captions() -> None:
    """An empty batch is no error."""
    assert decode(_decoder(), _grid(0), unpenalised()) == []


def test_a_grid_of_the_wrong_rank_is_refused() -> None:
    """Encoded images have three dimensions."""
    with pytest.raises(ValueError, match=r"\(N, P, D\)"):
        decode(_decoder(), torch.zeros(P, D), unpenalised())


def test_searching_changes_nothing() -> None:
    """The encoded images are the same afterwards, and a second search finds the same."""
    decoder, grid = _decoder(), _grid()
    before = grid.clone()
    first = decode(decoder, grid, unpenalised())
    assert torch.equal(grid, before)
    assert decode(decoder, grid, unpenalised()) == first


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"beam_size": 0}, "--beam-size"),
        ({"beam_size": 101}, "--beam-size"),
        ({"max_length": 0}, "--max-length"),
        ({"min_length": -1}, "--min-length"),
        ({"min_length": 21}, "--min-length"),
        ({"length_penalty": -0.5}, "--length-penalty"),
        ({"length_penalty": math.nan}, "--length-penalty"),
        ({"block_ngrams": -1}, "--block-ngrams"),
        ({"alternatives": 3}, "--alternatives"),
        ({"alternatives": -1}, "--alternatives"),
    ],
)
def test_options_that_cannot_be_met_are_refused(changes: dict[str, float], option: str) -> None:
    """The error names the option as the user gave it."""
    with pytest.raises(InputError, match=option):
        replace(unpenalised(), **changes)  # type: ignore[arg-type] # any field


def test_the_length_penalty_has_known_values() -> None:
    """((5 + tokens) / 6)^α, as Wu et al. write it."""
    assert length_normaliser(7, 0.0) == 1.0
    assert length_normaliser(1, 2.0) == 1.0
    assert length_normaliser(7, 1.0) == 2.0
    assert length_normaliser(19, 0.5) == 2.0


def test_reference_likelihoods_equal_their_definition() -> None:
    """Σ −log p of words and <end>, per reference in the order given, whatever lengths and numbers the images have."""
    decoder, grid = _decoder(seed=12), _grid(4)
    words: list[list[tuple[int, ...]]] = [[(4, 5, 6), (7,), (4, 4, 3, 5)], [], [(5,)], [(), (6, 7), (6, 7, 4, 5, 6), (3,)]]
    references = [[[Vocabulary.start, *caption, END] for caption in captions] for captions in words]
    results = reference_nll(decoder, grid, references)
    assert [len(result) for result in results] == [3, 0, 1, 4]
    for image, captions in enumerate(words):
        for (nll, tokens), caption in zip(results[image], captions, strict=True):
            assert tokens == len(caption) + 1
            assert nll == pytest.approx(-_log_prob(decoder, grid[image], caption), abs=1e-4)


def test_the_likelihood_of_a_hypothesis_is_that_of_a_reference() -> None:
    """A caption that was found and is then given as a reference has the same log probability."""
    decoder, grid = _decoder(seed=13), _grid()
    found = decode(decoder, grid, unpenalised(max_length=6))
    results = reference_nll(decoder, grid, [[[Vocabulary.start, *hypothesis.indices, END]] for hypothesis in found])
    assert [result[0][0] for result in results] == pytest.approx([-hypothesis.log_prob for hypothesis in found], abs=1e-4)
    assert [result[0][1] for result in results] == [hypothesis.num_tokens for hypothesis in found]


def test_images_without_references_have_no_likelihoods() -> None:
    """No references at all give empty lists, one an image."""
    assert reference_nll(_decoder(), _grid(3), [[], [], []]) == [[], [], []]


def _drawn(drawn: Drawn) -> list[list[tuple[int, ...]]]:
    """Read drawn captions (N, K, L) as words and <end>, without <start> and padding."""
    pairs = zip(drawn.captions.tolist(), drawn.lengths.tolist(), strict=True)
    return [[tuple(row[1 : size + 1]) for row, size in zip(rows, sizes, strict=True)] for rows, sizes in pairs]


def test_captions_are_drawn_as_often_as_they_are_likely() -> None:
    """The share of each drawn caption is its probability among captions without forbidden words, of every image on its own."""
    decoder, grid = _decoder(seed=3, end=1.0), _grid(2)
    torch.manual_seed(1)
    drawn = _drawn(sample_captions(decoder, grid, 4000, 2))
    for image in range(2):
        for words in [(END,), *((word, END) for word in WORDS), *itertools.product(WORDS, WORDS)]:
            caption = torch.tensor([[[Vocabulary.start, *words]]])
            with torch.no_grad():
                logits, _, _ = decoder(grid[image].unsqueeze(0), caption, torch.tensor([[len(words) + 1]]))
            logits[:, [Vocabulary.pad, Vocabulary.start, UNK]] = -math.inf
            steps = logits.double().softmax(-1)
            likely = math.prod(float(steps[step, word]) for step, word in enumerate(words))
            share = drawn[image].count(words) / 4000
            assert share == pytest.approx(likely, abs=4 * math.sqrt(likely * (1 - likely) / 4000) + 1e-9), words


def test_drawn_captions_can_be_read_by_the_decoder() -> None:
    """They begin with <start>, end with <end> or at the longest length, hold nothing forbidden, and are padded after."""
    decoder, grid = _decoder(seed=4), _grid()
    drawn = sample_captions(decoder, grid, 6, 5)
    captions, lengths = drawn.captions, drawn.lengths
    assert captions.shape[:2] == lengths.shape == (N, 6)
    assert (captions[..., 0] == Vocabulary.start).all()
    for words in itertools.chain(*_drawn(drawn)):
        assert 1 <= len(words) <= 5
        assert set(words[:-1]) <= set(WORDS)
        assert words[-1] == END or (len(words) == 5 and words[-1] in WORDS)
    beyond = torch.arange(captions.shape[-1]) > lengths.unsqueeze(-1)
    assert (captions[beyond] == Vocabulary.pad).all()


@pytest.mark.parametrize("words_detected", [0, 9])
def test_how_unlikely_a_drawn_caption_was_is_what_reading_it_gives(words_detected: int) -> None:
    """−log p, and its gradient, of captions drawn in a batch that shrinks as they end equal those of each one read alone.

    Words that are to count as detected in an image are those of its captions.
    """
    decoder, grid = _decoder(seed=7, end=3.0, detected=words_detected), _grid(3)
    detected = torch.randn(3, words_detected) if words_detected else None
    drawn = sample_captions(decoder, grid, 6, 7, detected=detected)
    assert len(drawn.lengths.unique()) > 2
    for image, k in itertools.product(range(3), range(6)):
        words = drawn.captions[image, k, : int(drawn.lengths[image, k]) + 1]
        own = None if detected is None else detected[[image]]
        logits, targets, _ = decoder(grid[[image]], words[None, None], torch.tensor([[len(words)]]), detected=own)
        logits = logits.index_fill(-1, torch.tensor([Vocabulary.pad, Vocabulary.start, UNK]), -math.inf)
        alone = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        torch.testing.assert_close(drawn.nll[image, k], alone)
        weight = decoder.context_gates.weight
        gradients = [torch.autograd.grad(nll, weight, retain_graph=True)[0] for nll in (drawn.nll[image, k], alone)]
        torch.testing.assert_close(*gradients)


def test_the_map_is_projected_once_for_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The samples of an image look at its map together: (N, P, D) goes through the projection once."""
    decoder = _decoder()
    calls: list[tuple[int, ...]] = []
    forward = decoder.attention.grid_projection.forward

    def counted(grid: Tensor) -> Tensor:
        calls.append(tuple(grid.shape))
        return forward(grid)

    monkeypatch.setattr(decoder.attention.grid_projection, "forward", counted)
    sample_captions(decoder, _grid(), 5, 6)
    assert calls == [(N, P, D)]


def test_a_hypothesis_is_immutable() -> None:
    """What a search returns is passed between threads, so nobody may change it."""
    with pytest.raises(AttributeError):
        Hypothesis(indices=(4,), log_prob=-1.0, num_tokens=2).log_prob = 0.0  # type: ignore[misc] # that is the point
