"""How good a captioner is on images it was not trained on, once an epoch.

In: a decoder, encoded images and their captions. Out: perplexity and the scores of free-running captions. Apart, because it
must not share anything with the training loss: no regulariser, no teacher forcing in what is called BLEU.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from capt.decoding import DecodingOptions, decode, reference_nll
from capt.model import Decoder
from capt.vocabulary import Vocabulary, tokenize

BATCH_SIZE = 32
DECODING = DecodingOptions(beam_size=3)

Encoded = Callable[[int, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Figures of one epoch.

    Args:
        perplexity: exp(Σ −log p / Σ tokens) over all captions, `<end>` included, regulariser excluded.
        bleu_4: Corpus BLEU-4 of captions found by beam search, 0 to 1, over the training tokeniser's words.
        cider: CIDEr-D of the same, 0 to 10.
        captions: The captions, in the images' order.
    """

    perplexity: float
    bleu_4: float
    cider: float
    captions: tuple[str, ...]


def validate(decoder: Decoder, encoded: Encoded, captions: Sequence[Sequence[str]], vocabulary: Vocabulary) -> Validation:
    """Caption every image freely, and compute the likelihood of what people wrote.

    Args:
        decoder: Is put in eval mode, and back as it was.
        encoded: Gives encoded images from one index up to another, `(n, P, D)` float, on the decoder's device.
        captions: For each image what people wrote.
        vocabulary: The words.

    Returns:
        The figures. BLEU and CIDEr are over the training tokeniser's words, not the Penn Treebank's, so they follow the progress
        of a run and are not what `capt-eval` reports.
    """
    was_training = decoder.training
    decoder.eval()
    nll, tokens, written = 0.0, 0, []
    with torch.inference_mode():
        for start in range(0, len(captions), BATCH_SIZE):
            encoder_out = encoded(start, min(start + BATCH_SIZE, len(captions)))
            references = [[vocabulary.encode(text) for text in texts] for texts in captions[start : start + BATCH_SIZE]]
            for image in reference_nll(decoder, encoder_out, references):
                nll += sum(part for part, _ in image)
                tokens += sum(count for _, count in image)
            written += [vocabulary.decode(found.indices) for found in decode(decoder, encoder_out, DECODING)]
    decoder.train(was_training)
    bleu_4, cider = _scores(written, captions)
    return Validation(perplexity=math.exp(min(nll / max(tokens, 1), 700.0)), bleu_4=bleu_4, cider=cider, captions=tuple(written))


def _scores(written: Sequence[str], captions: Sequence[Sequence[str]]) -> tuple[float, float]:
    from pycocoevalcap.bleu.bleu import Bleu  # noqa: PLC0415 - only training needs it
    from pycocoevalcap.cider.cider import Cider  # noqa: PLC0415

    res = {index: [" ".join(tokenize(text))] for index, text in enumerate(written)}
    gts = {index: [" ".join(tokenize(text)) for text in texts] for index, texts in enumerate(captions)}
    bleu, _ = Bleu(4).compute_score(gts, res, verbose=0)
    cider, _ = Cider().compute_score(gts, res)
    return float(bleu[3]), float(cider)
