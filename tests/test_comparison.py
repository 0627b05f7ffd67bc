"""Comparing systems: intervals that cover, tests that keep their level, ties that count once, and nothing unlike compared."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.significance import PairedTest

from capt.captions import Fingerprint
from capt.errors import InputError
from capt.references import read_references
from evaluation import metrics as metrics_module
from evaluation import perplexity, significance
from evaluation.comparison import Difference, compare, comparison_file, incomparable, paired_differences
from evaluation.metrics import METRICS, Tokens
from evaluation.paired import paired_tables, resampled_scores
from evaluation.pairs import Captions, Pairs, join, load_references
from evaluation.scores import Evaluation, Score
from evaluation.signature import conditions, signature
from evaluation.significance import Bootstrap, interval, resampled_sums, swapped_sums

PYTHON_METRICS = ("BLEU", "ROUGE_L", "CIDEr")  # those that need no Java
SUBJECTS = ["man", "woman", "boy", "girl", "dog", "cat", "child", "horse", "player", "biker"]
VERBS = ["runs", "sits", "jumps", "stands", "plays", "sleeps", "walks", "climbs"]
PLACES = ["grass", "street", "beach", "bench", "snow", "water", "field", "rock", "table", "wall"]
COLOURS = ["red", "blue", "green", "white", "black", "brown", "yellow"]


def _sentences(n: int, each: int, *, seed: int = 0) -> list[list[str]]:
    """Write `each` captions of n invented scenes, as unlike each other as those of people."""
    random = np.random.default_rng(seed)

    def said(scene: Sequence[str]) -> str:
        colour, subject, verb, place = (
            str(random.choice(words)) if random.random() < share else word
            for word, words, share in zip(scene, (COLOURS, SUBJECTS, VERBS, PLACES), (0.5, 0.2, 0.4, 0.3), strict=True)
        )
        forms = (
            f"a {colour} {subject} {verb} on the {place}",
            f"a {subject} {verb} near a {colour} {place}",
            f"the {subject} {verb}",
        )
        return str(random.choice(forms, p=[0.6, 0.3, 0.1]))

    scenes = [[str(random.choice(words)) for words in (COLOURS, SUBJECTS, VERBS, PLACES)] for _ in range(n)]
    return [[said(scene) for _ in range(each)] for scene in scenes]


def _pairs(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Pairs:
    return Pairs(
        image_ids=[f"{row}.jpg" for row in range(len(captions))],
        captions=captions,
        references=references,
        likelihoods=[None] * len(captions),
        origin="refs:test",
        references_sha256="c9d3" * 16,
    )


def _evaluation(
    statistics: Mapping[str, NDArray[np.float64]], pairs: Pairs | None = None, metrics: Sequence[str] = PYTHON_METRICS
) -> Evaluation:
    """Put an evaluation together from statistics, as `evaluate` does after Java."""
    n = len(next(iter(statistics.values())))
    pairs = pairs or _pairs([""] * n, [["x"]] * n)
    scores: dict[str, Score] = {}
    for name, table in statistics.items():
        if name == perplexity.NAME:
            known = table[table[:, 1] > 0]
            value = float(perplexity.corpus_score(known.sum(axis=0)))
            scores[name] = Score(value=value, low=value, high=value, n=len(known), higher_is_better=False, shown_times=1.0)
        else:
            values = METRICS[name].corpus(table.sum(axis=0), n)
            scores |= {
                each: Score(value=float(value), low=float(value), high=float(value), n=n)
                for each, value in zip(METRICS[name].names, values, strict=True)
            }
    found = conditions(pairs, [name for name in metrics if name in statistics], Bootstrap())
    return Evaluation(
        scores=scores,
        figures={},
        signature=signature(found),
        conditions=found,
        notes=[],
        image_ids=pairs.image_ids,
        captions=pairs.captions,
        per_image={},
        statistics=statistics,
    )


def _judged(captions: Sequence[str], references: Sequence[Sequence[str]], pairs: Pairs | None = None) -> Evaluation:
    """Score tokens with the metrics that need no Java."""
    tokens = Tokens(captions=captions, references=references)
    measured = {name: METRICS[name].open(None) for name in PYTHON_METRICS}  # type: ignore[arg-type]  # they start nothing
    statistics = {}
    for name, context in measured.items():
        with context as measure:
            statistics[name] = measure(tokens).statistics
    return _evaluation(statistics, pairs or _pairs(captions, references))


@pytest.fixture(scope="module")
def systems() -> tuple[Evaluation, Evaluation]:
    """Score two writers of 300 scenes against three others."""
    written = _sentences(300, 5)
    references = [texts[2:] for texts in written]
    return _judged([texts[0] for texts in written], references), _judged([texts[1] for texts in written], references)


# Simulated data: statistics of 200 images, whose true scores are known because their expected sums are.
IMAGES, DATA_SETS = 200, 400
PRECISIONS = np.array([0.7, 0.5, 0.33, 0.2])


def _simulated(seed: int, gain: float) -> tuple[Evaluation, Evaluation]:
    """Draw the statistics of two systems, the second better by `gain`, both good and bad at the same images."""
    random = np.random.default_rng(seed)
    skill, easy, nats = random.uniform(0.5, 1.0, IMAGES), random.gamma(1.0, 0.5, IMAGES), random.gamma(20.0, 7.0, IMAGES)

    def system(better: float) -> Evaluation:
        ngrams = random.integers(8, 13, (IMAGES, 1)) - np.arange(4)
        matches = random.binomial(ngrams, skill[:, None] * PRECISIONS * (1 + better))
        bleu = np.hstack([ngrams[:, :1], np.full((IMAGES, 1), 9), ngrams, matches]).astype(np.float64)
        cider = easy + better + random.normal(0, 0.2, IMAGES)
        nll = nats * (1 - better) + random.normal(0, 5, IMAGES)
        return _evaluation(
            {"BLEU": bleu, "CIDEr": cider[:, None], perplexity.NAME: np.stack([nll, np.full(IMAGES, 50.0)], axis=1)}
        )

    return system(0.0), system(gain)


def _true_difference(gain: float) -> dict[str, float]:
    def bleu_4(better: float) -> float:
        ngrams = 10.0 - np.arange(4)
        sums = np.concatenate([[10.0, 9.0], ngrams, ngrams * 0.75 * PRECISIONS * (1 + better)])
        return float(METRICS["BLEU"].corpus(sums, 1)[3])

    perplexities = np.exp(140.0 / 50), np.exp(140.0 * (1 - gain) / 50)
    return {"Bleu_4": bleu_4(gain) - bleu_4(0), "CIDEr": gain, "perplexity": float(perplexities[1] - perplexities[0])}


@pytest.mark.parametrize("gain", [0.0, 0.05])
def test_the_interval_covers_the_true_difference(gain: float) -> None:
    """Of 400 simulated data sets, 95 % of the intervals hold the true difference; and without one, 5 % of the tests reject.

    The share of 400 has a standard error of 1.1 %, and percentile intervals of 200 images fall short by about half a percent:
    92 % to 97.5 % is what a sound interval gives. One from half-size resamples covers 99.4 %, an unpaired one 100 %.
    """
    true = _true_difference(gain)
    covered, rejected = dict.fromkeys(true, 0), {name: np.zeros(2) for name in true}
    for seed in range(DATA_SETS):
        found = paired_differences(*_simulated(seed, gain), Bootstrap(resamples=400, seed=seed))
        for name, value in true.items():
            covered[name] += found[name].low <= value <= found[name].high
            rejected[name] += np.array([found[name].p_bootstrap, found[name].p_randomisation]) < 0.05
    for name in true:
        assert 0.92 <= covered[name] / DATA_SETS <= 0.975, name
        if gain == 0:
            assert rejected[name] / DATA_SETS == pytest.approx(np.full(2, 0.05), abs=0.028), name


def test_p_is_uniform_when_nothing_differs() -> None:
    """Without a difference, p lies below any level as often as the level says, for both tests."""
    found = [paired_differences(*_simulated(seed, 0.0), Bootstrap(resamples=200, seed=seed))["Bleu_4"] for seed in range(300)]
    for level in (0.1, 0.25, 0.5, 0.75):
        margin = 3 * np.sqrt(level * (1 - level) / len(found))
        for p_values in ([each.p_bootstrap for each in found], [each.p_randomisation for each in found]):
            assert (np.array(p_values) < level).mean() == pytest.approx(level, abs=margin)


def test_one_percent_of_captions_swapped_is_seen() -> None:
    """The paired tests see ten captions of 1,000 on the wrong images; unpaired intervals do not."""
    written = _sentences(1000, 5)
    references, captions = [texts[1:] for texts in written], [texts[0] for texts in written]
    worse = [*captions[1:10], captions[0], *captions[10:]]
    before, after = _judged(captions, references), _judged(worse, references)
    bootstrap = Bootstrap(resamples=2000)
    found = paired_differences(before, after, bootstrap)
    for name in ("CIDEr", "ROUGE_L", "Bleu_1"):
        assert found[name].high < 0, name
        assert max(found[name].p_randomisation, found[name].p_bootstrap) < 0.05, name
    unpaired = [interval(resampled_sums(each.statistics["CIDEr"], bootstrap)[:, 0] / 1000, bootstrap) for each in (before, after)]
    assert unpaired[0][0] < found["CIDEr"].value < found["CIDEr"].baseline < unpaired[1][1]


def _against_sacrebleu(captions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> None:
    """Hold BLEU-4 and both tests against sacrebleu's, on the same tokens."""
    resamples = 2000
    one, other = (_judged(texts, references) for texts in captions)
    found = paired_differences(one, other, Bootstrap(resamples=resamples))["Bleu_4"]
    streams = list(zip(*references, strict=True))
    p_values = {}
    for test in ("bs", "ar"):
        metric = BLEU(tokenize="none", smooth_method="none", force=True)
        _, results = PairedTest(
            [("one", captions[0]), ("other", captions[1])], {"BLEU": metric}, streams, test_type=test, n_samples=resamples
        )()
        baseline, result = results["BLEU"]
        assert found.baseline * 100 == pytest.approx(baseline.score, rel=1e-6)  # type: ignore[union-attr]  # a result
        assert found.value * 100 == pytest.approx(result.score, rel=1e-6)  # type: ignore[union-attr]  # a result
        p_values[test] = float(result.p_value)  # type: ignore[union-attr, arg-type]  # a result
    p = found.p_randomisation
    assert p == pytest.approx(p_values["ar"], abs=1e-9 + 4 * np.sqrt(2 * p * (1 - p) / resamples))
    # sacrebleu's draws are ours; its p of the bootstrap looks at one side of distances without a sign: the same from ours.
    drawn = next(
        each for each in resampled_scores(paired_tables(one, other), Bootstrap(resamples=resamples)) if each.name == found.name
    )
    apart = np.abs(drawn.drawn)
    one_sided = (np.count_nonzero(apart - apart.mean() > abs(found.difference)) + 1) / (resamples + 1)
    assert one_sided == pytest.approx(p_values["bs"], abs=2 / resamples)


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_bleu_and_its_tests_are_sacrebleus(seed: int) -> None:
    """On the same tokens BLEU-4 and its bootstrap equal sacrebleu's, and p of randomisation lies within its own error."""
    written = _sentences(150, 5, seed=seed)
    _against_sacrebleu([[texts[row] for texts in written] for row in (0, 1)], [texts[2:] for texts in written])


def test_bleu_and_its_tests_are_sacrebleus_on_people(data_dir: Path) -> None:
    """The same for two people against three others, on real photographs."""
    references = read_references(data_dir / "flickr8k", split="dev").captions.values()
    texts = [[" ".join(text.lower().replace(".", "").split()) for text in each] for each in references][:400]
    _against_sacrebleu([[each[row] for each in texts] for row in (0, 3)], [[each[1], each[2], each[4]] for each in texts])


def test_a_system_against_itself_has_p_1(systems: tuple[Evaluation, Evaluation]) -> None:
    """No difference, an interval of no width, p = 1 exactly in both tests, and after correction."""
    one, _ = systems
    comparison = compare(("one", one), [("again", one), ("and again", one)], Bootstrap())
    for found in (each for differences in comparison.differences.values() for each in differences.values()):
        assert (found.difference, found.low, found.high) == (0, 0, 0)
        assert (found.p_bootstrap, found.p_randomisation, found.p_corrected) == (1, 1, 1)


def test_ties_count_once() -> None:
    """Where one image alone differs, swapping it or not is a tie: p is 1; the interval begins where that image is not drawn."""
    values = np.random.default_rng(0).gamma(1.0, 0.5, 500)
    other = values.copy()
    other[7] += 0.1
    found = paired_differences(_evaluation({"CIDEr": values[:, None]}), _evaluation({"CIDEr": other[:, None]}), Bootstrap())[
        "CIDEr"
    ]
    assert found.p_randomisation == 1
    assert found.p_bootstrap > 0.2
    assert found.low == 0 < found.difference


def test_the_last_digits_of_a_sum_are_no_difference() -> None:
    """The same values on other images add up to the same score in another order: no difference, p = 1."""
    values = np.random.default_rng(0).gamma(1.0, 0.5, 999)
    other = np.random.default_rng(1).permutation(values)
    one, two = (replace(_evaluation({"CIDEr": each[:, None]})) for each in (values, other))
    assert values.sum() != other.sum()
    found = paired_differences(one, two, Bootstrap())["CIDEr"]
    assert (found.difference, found.p_bootstrap, found.p_randomisation) == (0, 1, 1)


def test_there_and_back_is_the_same_with_the_sign_turned(systems: tuple[Evaluation, Evaluation]) -> None:
    """Comparing B with A turns every sign and no p."""
    one, other = systems
    there, back = paired_differences(one, other, Bootstrap()), paired_differences(other, one, Bootstrap())
    for name, found in there.items():
        turned = back[name]
        assert found.difference == -turned.difference
        assert (found.low, found.high) == pytest.approx((-turned.high, -turned.low), rel=1e-9)
        assert (found.p_bootstrap, found.p_randomisation) == (turned.p_bootstrap, turned.p_randomisation)


def test_equal_seeds_give_equal_numbers(systems: tuple[Evaluation, Evaluation], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed gives the same numbers, in one block or many; another seed gives others."""
    first = paired_differences(*systems, Bootstrap())
    assert paired_differences(*systems, Bootstrap()) == first
    assert paired_differences(*systems, Bootstrap(seed=1)) != first
    monkeypatch.setattr(significance, "_ELEMENTS", 700)
    for name, found in paired_differences(*systems, Bootstrap()).items():
        assert (found.low, found.high) == pytest.approx((first[name].low, first[name].high), rel=1e-12)
        assert (found.p_bootstrap, found.p_randomisation) == (first[name].p_bootstrap, first[name].p_randomisation)


def test_images_are_paired_by_their_id(systems: tuple[Evaluation, Evaluation]) -> None:
    """The order in which the other's images stand changes nothing."""
    one, other = systems
    order = np.random.default_rng(0).permutation(len(other.image_ids))
    shuffled = replace(
        other,
        image_ids=[other.image_ids[row] for row in order],
        captions=[other.captions[row] for row in order],
        statistics={name: table[order] for name, table in other.statistics.items()},
    )
    assert paired_differences(one, shuffled, Bootstrap()) == paired_differences(one, other, Bootstrap())


def test_no_ngram_is_counted_again(systems: tuple[Evaluation, Evaluation], monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparing works when none of pycocoevalcap's scorers does."""
    for name in ("BleuScorer", "CiderScorer", "Rouge"):
        monkeypatch.setattr(metrics_module, name, None)
    with pytest.raises(TypeError):
        _judged(["a dog"], [["a dog"]])
    assert set(paired_differences(*systems, Bootstrap())) == {"Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"}


def test_every_resample_is_what_a_plain_loop_finds() -> None:
    """METEOR too: each interval and p follow from rows drawn, swapped and added up one resample at a time."""
    random = np.random.default_rng(0)
    tables = [{"METEOR": random.integers(1, 9, (60, 23)).astype(float), "CIDEr": random.gamma(1, 0.5, (60, 1))} for _ in range(2)]
    options = Bootstrap(resamples=200, seed=4)
    draws = np.random.default_rng(4).integers(0, 60, size=(200, 60))
    masks = swapped_sums(np.eye(60), options)[:, :, None].astype(bool)  # (R, N, 1)
    found = paired_differences(_evaluation(tables[0]), _evaluation(tables[1]), options)
    for name in ("METEOR", "CIDEr"):
        one, other = (table[name] for table in tables)

        def score(rows: NDArray[np.float64], name: str = name) -> float:
            return float(METRICS[name].corpus(rows.sum(axis=0), len(rows))[0])

        drawn = np.array([score(other[rows]) - score(one[rows]) for rows in draws])
        swapped = np.array([score(np.where(mask, one, other)) - score(np.where(mask, other, one)) for mask in masks])
        observed = score(other) - score(one)
        assert (found[name].low, found[name].high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
        assert found[name].p_bootstrap == ((np.abs(drawn - drawn.mean()) >= abs(observed)).sum() + 1) / 201
        assert found[name].p_randomisation == ((np.abs(swapped) >= abs(observed)).sum() + 1) / 201


def test_values_are_those_of_the_scores(systems: tuple[Evaluation, Evaluation]) -> None:
    """Both values are the scores to the last digit, and the difference is what lies between them."""
    one, other = systems
    for name, found in paired_differences(one, other, Bootstrap()).items():
        assert (found.baseline, found.value) == (one.scores[name].value, other.scores[name].value)
        assert found.difference == found.value - found.baseline
        assert found.low < found.difference < found.high
        assert found.n == 300


def test_p_values_are_corrected_over_the_systems_score_by_score(systems: tuple[Evaluation, Evaluation]) -> None:
    """With three systems the smallest p of a score is multiplied by 3; what one system shows alone stays what it was."""
    one, other = systems
    written = _sentences(300, 5)
    third = _judged([texts[3] for texts in written], [texts[2:] for texts in written])
    comparison = compare(("one", one), [("other", other), ("third", third), ("again", one)], Bootstrap())
    alone = compare(("one", one), [("other", other)], Bootstrap())
    assert alone.differences["other"] == paired_differences(one, other, Bootstrap())
    for name, found in comparison.differences["third"].items():
        assert found.p_corrected == pytest.approx(min(1, 3 * found.p_randomisation)), name
        assert replace(comparison.differences["other"][name], p_corrected=0) == replace(
            alone.differences["other"][name], p_corrected=0
        )
        assert comparison.differences["again"][name].p_corrected == 1


def _likely(tokens: Sequence[float], nats: float, **figures: float) -> Evaluation:
    counts = np.array(tokens, dtype=np.float64)
    values = np.linspace(0.5, 1.5, len(counts))
    table = np.stack([np.where(counts > 0, counts * nats * values, 0), counts], axis=1)
    return replace(_evaluation({"CIDEr": values[:, None], perplexity.NAME: table}), figures=figures)


def test_perplexity_is_over_the_images_that_both_know() -> None:
    """An image without likelihoods in one run is left out for both, and that is said; a lower perplexity is the better one."""
    one, other = _likely([10, 0, *[12] * 98], 2.0), _likely([10, 11, 0, *[12] * 97], 1.9)
    comparison = compare(("one", one), [("other", other)], Bootstrap())
    found = comparison.differences["other"]["perplexity"]
    kept = [0, *range(3, 100)]
    sums = [each.statistics[perplexity.NAME][kept].sum(axis=0) for each in (one, other)]
    assert (found.n, found.higher_is_better, found.shown_times) == (98, False, 1.0)
    assert (found.baseline, found.value) == pytest.approx([float(np.exp(nats / tokens)) for nats, tokens in sums])
    assert found.high < 0
    assert "over the images for which both have likelihoods" in " ".join(comparison.notes)
    assert comparison.differences["other"]["CIDEr"].n == 100


def test_perplexities_over_other_tokens_are_not_compared() -> None:
    """Networks that split the references differently, or share no image, are asked different questions: left out, and said."""
    one = _likely([10] * 50 + [0] * 50, 2.0)
    for other, reason in {
        "other tokens": (_likely([11] * 50 + [0] * 50, 2.0), "different numbers of tokens"),
        "other images": (_likely([0] * 50 + [10] * 50, 2.0), "no image has likelihoods in both"),
    }.values():
        comparison = compare(("one", one), [("other", other)], Bootstrap())
        assert list(comparison.differences["other"]) == ["CIDEr"]
        assert reason in " ".join(comparison.notes)
        with pytest.raises(InputError, match="no score of perplexity in common"):
            compare(("one", one), [("other", other)], Bootstrap(), ["perplexity"])


def test_another_vocabulary_is_noted() -> None:
    """Who reads more words as `<unk>` has the easier perplexity, which a reader must know; it is said once for all systems."""
    one, other, third = (_likely([10] * 100, 2.0, unknown_reference_words=share) for share in (0.02, 0.05, 0.01))
    almost, nearly = (_likely([10] * 100, 2.0, unknown_reference_words=share) for share in (0.0501, 0.0204))
    others = [("b", other), ("c", nearly), ("d", third), ("e", almost), ("f", other)]
    said = [note for note in compare(("a", one), others, Bootstrap()).notes if "vocabulary" in note]
    shares = "The vocabulary of a lacks 2.0% of the references' words, that of b, e and f 5.0%, that of d 1.0%"
    assert said == [f"{shares}: who lacks more has the easier perplexity."]
    assert compare(("a", one), [("b", one)], Bootstrap()).notes == ["b has the same captions as a, word for word."]


FINGERPRINT = Fingerprint(
    checkpoint_name="default.safetensors",
    checkpoint_sha256="d02a952653df" + "0" * 52,
    decoding={"beam_size": 3, "max_length": 20},
    attention=False,
    precision="bfloat16",
    preprocessing={"name": "inception"},
    max_pixels=120_000_000,
    source_sha256="1" * 64,
    source_rows=100,
    shard_size=1000,
    references_sha256=None,
    batch_size=32,
    device="cpu",
    versions={"capt": "0.1.0"},
)


def test_what_differs_between_two_runs_is_said() -> None:
    """What differs of decoding, checkpoint and preprocessing is named with both values; what changes no caption is not."""
    pairs = _pairs(["x"] * 100, [["x"]] * 100)
    table = {"CIDEr": np.ones((100, 1))}
    greedy = replace(FINGERPRINT, checkpoint_sha256="e" * 64, decoding={"beam_size": 1, "max_length": 20}, batch_size=8)
    one, other, foreign = (
        _evaluation(table, replace(pairs, fingerprint=each, captions=[text] * 100))
        for each, text in ((FINGERPRINT, "x"), (greedy, "y"), (None, "z"))
    )
    assert compare(("one", one), [("greedy", other)], Bootstrap()).notes == [
        (
            "greedy was made with beam_size 1 instead of 3,"
            " checkpoint default.safetensors@eeeeeeeeeeee instead of default.safetensors@d02a952653df."
        )
    ]
    small, large, cropped = (
        _evaluation(table, replace(pairs, fingerprint=replace(FINGERPRINT, preprocessing=told), captions=[str(told)] * 100))
        for told in (
            {"name": "inception-224", "size": 224, "crop_fraction": 1.0},
            {"name": "inception-272", "size": 272, "crop_fraction": 0.9},
            {"name": "inception-224", "size": 224, "crop_fraction": 0.9},
        )
    )
    assert compare(("small", small), [("large", large), ("cropped", cropped)], Bootstrap()).notes == [
        "large was made with preprocessing inception-272 instead of inception-224, crop_fraction 0.9 instead of 1.0.",
        "cropped was made with crop_fraction 0.9 instead of 1.0.",
    ]
    renamed = replace(greedy, checkpoint_sha256=FINGERPRINT.checkpoint_sha256, checkpoint_name="a-copy.safetensors")
    copied = _evaluation(table, replace(pairs, fingerprint=renamed, captions=["y"] * 100))
    assert compare(("one", one), [("copied", copied)], Bootstrap()).notes == ["copied was made with beam_size 1 instead of 3."]
    assert compare(("one", one), [("foreign", foreign)], Bootstrap()).notes == [
        "How foreign was made is unknown: its captions carry no fingerprint of a run."
    ]
    assert compare(("foreign", foreign), [("one", one)], Bootstrap()).notes == [
        "How foreign was made is unknown: its captions carry no fingerprint of a run."
    ]


def test_what_weakens_a_comparison_is_noted() -> None:
    """Few images, failed images, another pycocoevalcap and scores that one side lacks are said."""
    one = _evaluation({"CIDEr": np.ones((20, 1)), "ROUGE_L": np.ones((20, 1))}, _pairs(["x"] * 20, [["x"]] * 20))
    other = _evaluation({"CIDEr": np.ones((20, 1))}, replace(_pairs(["y"] * 20, [["x"]] * 20), failed=2))
    other = replace(other, conditions={**other.conditions, "versions": {"pycocoevalcap": "9.9"}})
    assert not incomparable(one, other)
    said = " ".join(compare(("one", one), [("other", other)], Bootstrap()).notes)
    for part in ("20 images are few", "2 images failed in other", "pycocoevalcap 9.9", "Only one has ROUGE_L: not compared."):
        assert part in said


def _test_split(folder: Path, rows: range) -> Pairs:
    """Join captions with a references file that is called what the other is called."""
    folder.mkdir()
    path = folder / "test.jsonl"
    path.write_text("\n".join(json.dumps({"image": f"{row}.jpg", "caption": ["a dog", f"dog {row}"]}) for row in rows))
    names = [f"{row}.jpg" for row in rows]
    return join(
        Captions(image_ids=names, captions=["a dog"] * len(names), likelihoods=[None] * len(names)), load_references(path)
    )


def test_two_test_splits_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """The two "Flickr30k test" sets share a name and 25 images: their sha256 differ, and comparing them is refused."""
    pairs = [_test_split(tmp_path / name, rows) for name, rows in {"karpathy": range(100), "entities": range(75, 175)}.items()]
    one, other = (_judged(each.captions, each.references, each) for each in pairs)
    assert one.conditions["references"] == other.conditions["references"]
    reasons = incomparable(one, other)
    assert len(reasons) == 2
    for each in pairs:
        assert each.references_sha256[:12] in reasons[0]
    assert "75 of the first not in the second: 0.jpg, 1.jpg, 10.jpg, …" in reasons[1]
    with pytest.raises(InputError, match=r"karpathy \(first\) and entities \(second\) do not compare: the references differ"):
        compare(("karpathy", one), [("entities", other)], Bootstrap())
    with pytest.raises(InputError, match="score both against the same file and split"):
        paired_differences(one, other, Bootstrap())


def test_what_does_not_compare_is_refused_with_what_to_do(systems: tuple[Evaluation, Evaluation]) -> None:
    """References, their number, images, tokeniser, a metric's version: each is a reason of its own, with advice."""
    one, other = systems

    def changed(**values: object) -> list[str]:
        return incomparable(one, replace(other, conditions={**other.conditions, **values}))

    assert incomparable(one, other) == []
    assert changed(references_sha256="11ab" * 16) == [
        (
            "the references differ (refs:test, sha256 c9d3c9d3c9d3 against refs:test, sha256 11ab11ab11ab):"
            " score both against the same file and split"
        )
    ]
    assert "(3 an image against 1 to 3)" in changed(references_per_image=[1, 3])[0]
    assert "the tokeniser differs (PTB-3.4.1 against spaces): score both with the same version" in changed(tokenizer="spaces")[0]
    assert "CIDEr differs (D,df=references against D2)" in changed(metrics={"CIDEr": "D2"})[0]
    assert changed(metrics={}) == []  # a metric that one side lacks is no reason
    short = replace(other, image_ids=[*other.image_ids[:-2], "x.jpg", "y.jpg"])
    assert incomparable(one, short) == [
        (
            "the images differ (2 of the first not in the second: 298.jpg, 299.jpg; "
            "2 of the second not in the first: x.jpg, y.jpg): caption and score the same images"
        )
    ]


def test_a_partial_run_is_not_comparable(systems: tuple[Evaluation, Evaluation]) -> None:
    """A run without some images has other references for that reason, so the one reason given is the images."""
    one, other = systems
    partial = replace(
        other,
        image_ids=other.image_ids[:-1],
        conditions={**other.conditions, "images_missing": 1, "images": 299, "references_sha256": "0" * 64},
    )
    assert incomparable(one, partial) == [
        "the images differ (1 of the first not in the second: 299.jpg): caption the missing ones, and score without --partial"
    ]


def test_names_and_scores_must_be_clear(systems: tuple[Evaluation, Evaluation]) -> None:
    """Two systems of one name are a fault of the caller; two without a common score are the user's."""
    one, other = systems
    with pytest.raises(ValueError, match="names must be unique"):
        compare(("one", one), [("one", other)], Bootstrap())
    n = len(one.image_ids)
    pairs = _pairs(one.captions, [["x"] * 3] * n)
    bleu, cider = (_evaluation({name: one.statistics[name]}, pairs) for name in ("BLEU", "CIDEr"))
    with pytest.raises(InputError, match="a and b have no score in common: score both with the same metrics"):
        compare(("a", bleu), [("b", cider)], Bootstrap())


def test_the_file_holds_everything(systems: tuple[Evaluation, Evaluation]) -> None:
    """JSON gives back every difference, how it was computed, and both signatures."""
    comparison = compare(("one", systems[0]), [("other", systems[1])], Bootstrap(seed=7), ["CIDEr", "Bleu_4"])
    content = json.loads(json.dumps(comparison_file(comparison)))
    assert {name: Difference(**values) for name, values in content["systems"]["other"].items()} == comparison.differences["other"]
    assert list(content["systems"]["other"]) == ["Bleu_4", "CIDEr"]
    assert (content["resamples"], content["seed"], content["confidence"]) == (1000, 7, 0.95)
    assert content["signatures"] == {"one": systems[0].signature, "other": systems[1].signature}
