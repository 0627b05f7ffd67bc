"""Attention and decoder against the equations of the paper, written out once more."""

import math

import pytest
import torch
from torch import Tensor, nn

from capt.encoder import Encoder, EncoderConfig
from capt.images import INCEPTION
from capt.model import Captioner, Decoder, ModelConfig, Precision, doubly_stochastic_penalty
from capt.vocabulary import Vocabulary

P, D, V, E, H, A = 6, 5, 11, 4, 7, 3


def _config(**changes: object) -> ModelConfig:
    values = {"vocab_size": V, "encoder_dim": D, "embed_dim": E, "decoder_dim": H, "attention_dim": A, "dropout": 0.0, **changes}
    return ModelConfig(encoder=EncoderConfig(name="efficientnet_lite0"), **values)  # type: ignore[arg-type] # any field


def _decoder(**changes: object) -> Decoder:
    torch.manual_seed(3)
    decoder = Decoder(_config(**changes)).double().eval()
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.7)
    return decoder


def _plain_logits(decoder: Decoder, grid: Tensor, words: list[int]) -> tuple[Tensor, Tensor]:
    """Read one caption for one image as Xu et al. write it, cell by cell; gives logits (T, V) and alphas (T, P).

    Detected words, where they are read, are projected and added to the first state, to the gates and to what words are read from.
    """
    seen, likely = decoder.detected, torch.zeros(0)
    if seen is not None:
        likelihoods = 1 / (1 + torch.exp(-(seen.detector.weight @ (grid.sum(0) / P) + seen.detector.bias)))
        likely = torch.relu(seen.projection.weight @ likelihoods + seen.projection.bias)
    cell = nn.LSTMCell(E + D, H).double()
    attention = decoder.attention
    with torch.no_grad():
        cell.weight_ih.copy_(torch.cat([decoder.word_gates.weight, decoder.context_gates.weight[:, :D]], 1))
        cell.weight_hh.copy_(decoder.context_gates.weight[:, D:])
        cell.bias_ih.copy_(decoder.word_gates.bias)
        cell.bias_hh.copy_(0 * decoder.word_gates.bias if seen is None else seen.gates.weight @ likely)
    mean = grid.sum(0) / P  # a_mean = 1/P Σ a_i
    start = decoder.initial.weight @ mean + decoder.initial.bias
    start = torch.tanh(start if seen is None else start + seen.start.weight @ likely)
    h, c = start[:H].unsqueeze(0), start[H:].unsqueeze(0)  # f_init

    def attend(h: Tensor) -> tuple[Tensor, Tensor]:
        energies = []
        for p in range(P):  # e_ti = f_att(a_i, h)
            mixed = attention.grid_projection(grid[p]) + attention.state_projection(h[0])
            energies.append(float(attention.energy(torch.tanh(mixed))))
        total = sum(math.exp(energy) for energy in energies)
        alpha = torch.tensor([math.exp(energy) / total for energy in energies], dtype=torch.float64)
        context = torch.stack([alpha[p] * grid[p] for p in range(P)]).sum(0)  # z_t = Σ α_ti a_i
        beta = 1 / (1 + torch.exp(-(decoder.gate.weight @ h[0] + decoder.gate.bias)))
        return beta * context, alpha

    logits, alphas = [], []
    for word in words:
        context, alpha = attend(h)
        h, c = cell(torch.cat([decoder.embedding.weight[word], context]).unsqueeze(0), (h, c))
        read = decoder.readout.weight @ h[0] + decoder.readout.bias
        if decoder.context_readout is not None:
            context, alpha = attend(h)
            read = read + decoder.context_readout.weight @ context
        read = read if seen is None else read + seen.readout.weight @ likely
        logits.append(decoder.output.weight @ read + decoder.output.bias)
        alphas.append(alpha)
    return torch.stack(logits), torch.stack(alphas)


def _captions(lengths: list[list[int]]) -> tuple[Tensor, Tensor]:
    torch.manual_seed(5)
    longest = max(max(row) for row in lengths)
    encoded = torch.zeros(len(lengths), len(lengths[0]), longest, dtype=torch.long)
    for n, row in enumerate(lengths):
        for k, length in enumerate(row):
            if length:
                words = torch.randint(4, V, (length - 2,)).tolist()
                encoded[n, k, :length] = torch.tensor([Vocabulary.start, *words, Vocabulary.end])
    return encoded, torch.tensor(lengths)


@pytest.mark.parametrize(
    ("tied", "context_readout", "detected"),
    [(True, False, 0), (False, False, 0), (True, True, 0), (True, True, 9), (True, False, 9)],
)
@pytest.mark.parametrize("lengths", [[[6, 4], [5, 3]], [[3, 7], [4, 0]], [[2, 2], [5, 0]]], ids=["sorted", "unsorted", "empty"])
def test_the_decoder_computes_the_equations_of_the_paper(
    lengths: list[list[int]],
    tied: bool,  # noqa: FBT001 - a case
    context_readout: bool,  # noqa: FBT001 - a case
    detected: int,
) -> None:
    """Teacher-forced logits and alphas equal those of an independent implementation, whatever the captions' lengths."""
    decoder = _decoder(tie_embeddings=tied, context_readout=context_readout, detected_words=detected, detected_dim=8)
    encoder_out = torch.randn(2, P, D, dtype=torch.float64)
    encoded, caption_lengths = _captions(lengths)
    with torch.no_grad():
        logits, targets, alphas = decoder(encoder_out, encoded, caption_lengths)
        row = 0
        for n, ks in enumerate(lengths):
            for k, length in enumerate(ks):
                words = encoded[n, k, :length].tolist()
                steps = max(length - 1, 0)
                assert targets[row : row + steps].tolist() == words[1:]
                assert not alphas[n, k, steps:].any()
                if steps:
                    expected, expected_alphas = _plain_logits(decoder, encoder_out[n], words[:-1])
                    torch.testing.assert_close(logits[row : row + steps], expected, rtol=1e-5, atol=1e-5)  # softmax is float32
                    torch.testing.assert_close(alphas[n, k, :steps].double(), expected_alphas, rtol=1e-5, atol=1e-6)
                row += steps
    assert row == len(logits) == len(targets)


def test_attention_weights_sum_to_one_and_weigh_the_grid() -> None:
    """Alpha is a distribution over cells, and the context is its mean of the grid."""
    decoder = _decoder()
    encoder_out = torch.randn(3, P, D, dtype=torch.float64)
    h = torch.randn(3, 4, H, dtype=torch.float64)
    context, alpha = decoder.attention(decoder.remember(encoder_out), h)
    assert alpha.shape == (3, 4, P)
    torch.testing.assert_close(alpha.sum(-1), torch.ones(3, 4, dtype=alpha.dtype))
    torch.testing.assert_close(context, torch.einsum("nkp,npd->nkd", alpha.double(), encoder_out))


def test_the_grid_is_projected_once_for_a_whole_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many captions and steps, the encoder map goes through its projection once."""
    decoder = _decoder()
    calls: list[tuple[int, ...]] = []
    forward = decoder.attention.grid_projection.forward

    def counted(grid: Tensor) -> Tensor:
        calls.append(tuple(grid.shape))
        return forward(grid)

    monkeypatch.setattr(decoder.attention.grid_projection, "forward", counted)
    encoded, lengths = _captions([[6, 4, 3], [5, 3, 2]])
    decoder(torch.randn(2, P, D, dtype=torch.float64), encoded, lengths)
    assert calls == [(2, P, D)]


@pytest.mark.parametrize("context_readout", [False, True])
def test_a_decoder_learns_with_every_weight(context_readout: bool) -> None:  # noqa: FBT001 - a case
    """The loss and the regulariser reach every parameter: none is left out of the graph."""
    decoder = _decoder(dropout=0.3, context_readout=context_readout).train()
    encoded, lengths = _captions([[6, 4], [5, 3]])
    logits, targets, alphas = decoder(torch.randn(2, P, D, dtype=torch.float64), encoded, lengths)
    (nn.functional.cross_entropy(logits, targets) + doubly_stochastic_penalty(alphas)).backward()
    silent = [name for name, parameter in decoder.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert silent in ([], ["attention.energy.bias"])  # softmax does not change when all energies rise alike


def test_dropout_is_off_in_eval_mode() -> None:
    """The same input gives the same logits in eval mode, and others in training."""
    decoder = _decoder(dropout=0.5)
    encoder_out = torch.randn(1, P, D, dtype=torch.float64)
    encoded, lengths = _captions([[6]])
    first, second = (decoder(encoder_out, encoded, lengths)[0] for _ in range(2))
    assert torch.equal(first, second)
    decoder.train()
    first, second = (decoder(encoder_out, encoded, lengths)[0] for _ in range(2))
    assert not torch.equal(first, second)


def test_embeddings_are_dropped_in_training_when_asked() -> None:
    """Dropout of what is read changes training and not eval mode, and an older checkpoint's configuration has none."""
    decoder = _decoder(embedding_dropout=0.5)
    words = torch.arange(4, V)
    assert torch.equal(decoder.read_words(words), decoder.read_words(words))
    decoder.train()
    assert not torch.equal(decoder.read_words(words), decoder.read_words(words))
    older = {name: value for name, value in _config().to_dict().items() if name != "embedding_dropout"}
    assert ModelConfig.from_dict(older).embedding_dropout == 0


def test_dropout_can_be_changed_afterwards() -> None:
    """The configuration and what is dropped follow; an impossible share is refused and changes nothing."""
    captioner = Captioner(_config(encoder_dim=3, dropout=0.5), Encoder(_Mean(), 3), INCEPTION)
    captioner.set_dropout(embedding_dropout=0.25)
    assert (captioner.config.dropout, captioner.decoder.config.embedding_dropout) == (0.5, 0.25)
    assert (captioner.decoder.dropout.p, captioner.decoder.embedding_dropout.p) == (0.5, 0.25)
    with pytest.raises(ValueError, match="dropout"):
        captioner.set_dropout(dropout=1.0)
    assert captioner.decoder.dropout.p == 0.5


def test_scheduled_sampling_reads_what_the_decoder_would_say() -> None:
    """A decoder that is sure of one word reads that word everywhere but after <start>, while the targets stay as given."""
    decoder, sure = _decoder(), 9
    with torch.no_grad():
        decoder.output.bias[sure] += 1e4
    encoder_out = torch.randn(2, P, D, dtype=torch.float64)
    encoded, lengths = _captions([[6, 4], [5, 3]])
    with torch.no_grad():
        logits, targets, alphas = decoder(encoder_out, encoded, lengths, sampling=1.0)
        own = encoded.clone()
        own[:, :, 1:] = sure
        expected, _, expected_alphas = decoder(encoder_out, own, lengths)
        given, same_targets, _ = decoder(encoder_out, encoded, lengths)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(alphas, expected_alphas)
    assert torch.equal(targets, same_targets)
    assert not torch.allclose(logits, given)


def test_scheduled_sampling_replaces_as_many_words_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many words read, the share that is replaced is about the probability; the first word never is."""
    decoder, sure = _decoder(), 9
    with torch.no_grad():
        decoder.output.bias[sure] += 1e4
    encoded = torch.full((40, 5, 12), 5)
    encoded[:, :, 0] = Vocabulary.start
    read: list[Tensor] = []
    read_words = decoder.read_words

    def listen(words: Tensor) -> Tensor:
        read.append(words)
        return read_words(words)

    monkeypatch.setattr(decoder, "read_words", listen)
    with torch.no_grad():
        decoder(torch.randn(40, P, D, dtype=torch.float64), encoded, torch.full((40, 5), 12), sampling=0.25)
    words = torch.stack(read, -1)  # (N, K, T)
    assert (words[..., 0] == Vocabulary.start).all()
    assert float((words[..., 1:] == sure).double().mean()) == pytest.approx(0.25, abs=0.04)
    assert set(words[..., 1:].unique().tolist()) == {5, sure}


@pytest.mark.parametrize("context_readout", [False, True])
def test_reading_without_an_image_is_reading_with_an_image_of_zeros(context_readout: bool) -> None:  # noqa: FBT001 - a case
    """The language model is the same decoder, not another one: equal logits for the same words."""
    decoder = _decoder(context_readout=context_readout)
    encoded, lengths = _captions([[6, 6]])
    with torch.no_grad():
        expected, _, _ = decoder(torch.zeros(1, P, D, dtype=torch.float64), encoded, lengths)
        read = decoder.read_without_image(encoded[0, :, :-1])
        torch.testing.assert_close(decoder.output(read).flatten(0, 1), expected)


@pytest.mark.parametrize("context_readout", [False, True])
def test_ignored_images_change_nothing_until_training_gives_them_weight(context_readout: bool) -> None:  # noqa: FBT001 - a case
    """After `ignore_images` every image gives the language model's logits; the gradient reaches what leads from the image."""
    decoder = _decoder(context_readout=context_readout)
    encoded, lengths = _captions([[6, 4], [5, 3]])
    decoder.ignore_images()
    with torch.no_grad():
        expected, _, _ = decoder(torch.zeros(2, P, D, dtype=torch.float64), encoded, lengths)
    logits, targets, _ = decoder(torch.randn(2, P, D, dtype=torch.float64), encoded, lengths)
    torch.testing.assert_close(logits.detach(), expected)
    nn.functional.cross_entropy(logits, targets).backward()
    for weight in (decoder.initial.weight, decoder.context_gates.weight):
        assert weight.grad is not None
        assert weight.grad[:, :D].abs().min() > 0


def test_without_attention_every_word_reads_the_mean_cell() -> None:
    """With attention_dim 0 an image counts as its mean cell: the logits are those of a map that is this cell everywhere."""
    torch.manual_seed(2)
    decoder, attending = _decoder(attention_dim=0), _decoder()
    same = {name: weight for name, weight in decoder.state_dict().items() if not name.startswith("attention.")}
    attending.load_state_dict(same, strict=False)
    grid = torch.randn(2, P, D, dtype=torch.float64)
    encoded, lengths = _captions([[5, 3], [4, 0]])
    logits, _, alphas = decoder(grid, encoded, lengths)
    expected, _, _ = attending(grid.mean(1, keepdim=True).expand(-1, P, -1), encoded, lengths)
    torch.testing.assert_close(logits, expected)
    assert sorted(alphas.unique().tolist()) == [0.0, pytest.approx(1 / P)]


def test_tied_embeddings_are_one_tensor() -> None:
    """With tying, the output layer and the embeddings share their weights; without, they do not."""
    tied, untied = _decoder(tie_embeddings=True), _decoder(tie_embeddings=False)
    assert tied.output.weight is tied.embedding.weight
    assert untied.output.weight is not untied.embedding.weight


def test_the_doubly_stochastic_penalty_has_known_values() -> None:
    """It is 0 when every cell got attention 1 in sum, and 1 when none got any."""
    even = torch.full((1, 1, P, P), 1 / P)
    assert float(doubly_stochastic_penalty(even)) == pytest.approx(0)
    assert float(doubly_stochastic_penalty(torch.zeros(2, 3, 4, P))) == pytest.approx(1)
    one_cell = torch.zeros(1, 1, 3, 2)
    one_cell[..., 0] = 1.0  # cell 0 is looked at three times, cell 1 never: ((1-3)² + 1²) / 2
    assert float(doubly_stochastic_penalty(one_cell)) == pytest.approx(2.5)


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_size": 0},
        {"embed_dim": -1},
        {"decoder_dim": 0},
        {"attention_dim": -1},
        {"feature_dim": -1},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"embedding_dropout": 1.0},
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, object]) -> None:
    """A size below 1 or a dropout outside [0, 1) names itself in the error."""
    with pytest.raises(ValueError, match=next(iter(changes))):
        _config(**changes)


def test_a_configuration_survives_being_a_dict() -> None:
    """The configuration in a checkpoint reads back equal; an unknown field is an error."""
    config = _config(tie_embeddings=False)
    assert ModelConfig.from_dict(config.to_dict()) == config
    with pytest.raises(TypeError):
        ModelConfig.from_dict({**config.to_dict(), "novelty": 1})


class _Mean(nn.Module):
    """Averages each colour over the image: a network whose output is known."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(images, 2)


def test_a_captioner_normalises_images_with_its_own_numbers() -> None:
    """Encode takes bytes as they come from disk, (N, S, S, 3), and applies mean and standard deviation itself."""
    captioner = Captioner(_config(encoder_dim=3), Encoder(_Mean(), 3), INCEPTION).eval()
    images = torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.uint8)
    encoder_out = captioner.encode(images)
    corner = images[1, :2, 2:].double().mean((0, 1)) / 255 * 2 - 1  # row 0, column 1 of the 2×2 grid
    assert encoder_out.shape == (2, 4, 3)
    assert encoder_out.dtype == torch.float32
    torch.testing.assert_close(encoder_out[1, 1].double(), corner, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", [each for each in Precision if each is not Precision.INT8])
def test_the_encoder_runs_in_the_precision_asked_for(precision: Precision) -> None:
    """Lower precision changes the numbers a little and never the type that comes out; torch knows no int8."""
    torch.manual_seed(0)
    captioner = Captioner(_config(encoder_dim=8), Encoder(nn.Conv2d(3, 8, 3), 8), INCEPTION).eval()
    images = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    with torch.inference_mode():
        exact = captioner.encode(images)
        encoded = captioner.set_precision(precision).encode(images)
    assert encoded.dtype == torch.float32
    torch.testing.assert_close(encoded, exact, rtol=0.05, atol=0.05)
    if precision is Precision.FLOAT32:
        torch.testing.assert_close(encoded, exact)
    else:
        assert not torch.equal(encoded, exact)


def test_an_unknown_precision_is_refused() -> None:
    """Only float32, bfloat16, float16 and int8 exist."""
    with pytest.raises(ValueError, match="float8"):
        Captioner(_config(encoder_dim=3), Encoder(_Mean(), 3), INCEPTION).set_precision("float8")


def test_projected_cells_are_what_everything_reads() -> None:
    """With a feature dimension, attention, gate and first state read relu(W x + b) of each cell, computed here by hand."""
    decoder = _decoder(feature_dim=7)
    encoder_out = torch.randn(2, 4, D).double()
    projection = decoder.features
    assert projection is not None
    cells = (encoder_out @ projection.weight.T + projection.bias).clamp(min=0)
    memory = decoder.remember(encoder_out)
    torch.testing.assert_close(memory.cells, cells)
    assert memory.projected is not None
    torch.testing.assert_close(memory.projected, decoder.attention.grid_projection(cells))
    mean = decoder.initial(cells.mean(1)).tanh()
    torch.testing.assert_close(decoder.begin(memory, 3).h[:, 1], mean[:, :H])
    context, alpha = decoder.attention(memory, torch.randn(2, 3, H).double())
    torch.testing.assert_close(context, torch.einsum("nkp,npf->nkf", alpha.double(), cells))


def test_cells_are_dropped_in_training_alone() -> None:
    """The share of a projected cell that is 0 is the share asked for, and captioning sees all of it."""
    decoder = _decoder(feature_dim=50, feature_dropout=0.25)
    encoder_out = torch.randn(20, 4, D).double()
    whole = decoder.eval().remember(encoder_out).cells
    dropped = decoder.train().remember(encoder_out).cells
    kept = dropped != 0
    assert float((~kept & (whole > 0)).sum() / (whole > 0).sum()) == pytest.approx(0.25, abs=0.05)
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.75)


def test_a_decoder_that_ignores_images_reads_like_one_without_them_whatever_it_projects() -> None:
    """Text first leaves projected cells without weight, so that any image gives the states of no image."""
    decoder = _decoder(feature_dim=7).eval()
    decoder.ignore_images()
    words = torch.tensor([[[1, 5, 4, 6, 2]]])
    logits, _, _ = decoder(torch.randn(1, 4, D).double(), words, torch.tensor([[5]]))
    torch.testing.assert_close(logits, decoder.output(decoder.read_without_image(words[0, :, :-1]))[0])


def test_words_can_count_as_detected_that_the_detector_did_not_find() -> None:
    """Given logits take the place of the detector's; its own, given, change nothing. Without images they count, too."""
    decoder = _decoder(context_readout=True, detected_words=9, detected_dim=8)
    encoder_out = torch.randn(2, P, D, dtype=torch.float64)
    encoded, lengths = _captions([[6, 4], [5, 3]])
    assert decoder.detected is not None
    with torch.no_grad():
        own = decoder.detected.detect(encoder_out)
        expected, _, _ = decoder(encoder_out, encoded, lengths)
        torch.testing.assert_close(decoder(encoder_out, encoded, lengths, detected=own)[0], expected)
        others, _, _ = decoder(encoder_out, encoded, lengths, detected=own.flip(0))
        assert (others - expected).abs().mean() > 0.01
        decoder.ignore_images()
        one, length = encoded[:1, :1, :6], lengths[:1, :1]
        logits, _, _ = decoder(encoder_out[:1], one, length, detected=own[:1])
        torch.testing.assert_close(decoder.output(decoder.read_without_image(one[0, :, :-1], own[:1]))[0], logits)


def test_a_detector_is_adopted_and_does_not_learn_with_the_decoder() -> None:
    """Words as likely as usual leave the projection at its bias; backward reaches all of the decoder but the detector."""
    torch.manual_seed(0)
    decoder = Decoder(_config(detected_words=9, detected_dim=8))
    assert decoder.detected is not None
    bias = decoder.detected.projection.bias.detach().clone()
    frequencies = torch.rand(9) * 0.8 + 0.1
    weight, bias_of_detector = torch.randn(9, D), torch.randn(9)
    decoder.detected.adopt(weight, bias_of_detector)
    grid = torch.randn(1, P, D)
    torch.testing.assert_close(decoder.detected.detect(grid)[0], weight @ grid[0].mean(0) + bias_of_detector)
    decoder.detected.begin_with(frequencies)
    torch.testing.assert_close(decoder.detected.projection(frequencies), bias)
    encoded, lengths = _captions([[6, 4]])
    logits, targets, _ = decoder(torch.randn(1, P, D), encoded, lengths)
    nn.functional.cross_entropy(logits, targets).backward()
    without = {name for name, parameter in decoder.named_parameters() if parameter.grad is None}
    assert without == {"detected.detector.weight", "detected.detector.bias", "attention.energy.bias"}  # the last changes nothing


def test_likelihoods_are_dropped_in_training_only() -> None:
    """`detected_dropout` changes what is added in training, and nothing when captioning; `set_dropout` changes it later."""
    torch.manual_seed(0)
    decoder = _decoder(detected_words=9, detected_dim=200, detected_dropout=0.5)
    assert decoder.detected is not None
    logits = torch.randn(1, 9, dtype=torch.float64)
    torch.testing.assert_close(decoder.detected(logits).start, decoder.detected(logits).start)
    decoder.train()
    assert not torch.equal(decoder.detected(logits).start, decoder.detected(logits).start)
    captioner = Captioner(_config(detected_words=9, detected_dropout=0.5), Encoder(nn.Identity(), D), INCEPTION)
    captioner.set_dropout(detected_dropout=0.0, dropout=0.0)
    seen = captioner.decoder.train().detected
    assert seen is not None
    torch.testing.assert_close(seen(logits.float()).readout, seen(logits.float()).readout)
