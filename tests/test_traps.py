"""What breaks elsewhere when captions are scored, measured or reported of other tools: each is impossible here.

The traps that belong to one part have their tests beside it: shifted lines and files in site-packages (test_tokenizer.py,
test_measure.py), a hanging METEOR (test_metrics.py), locales and Java's starts (test_measure.py), ids (test_pairs.py), unequal
references, splits and paired tests (test_comparison.py), verdict and exit code (test_cli_gate.py), perplexity and
free-running validation (test_training.py).
"""

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from capt.references import References, read_references
from evaluation.cache import Cache
from evaluation.evaluate import evaluate
from evaluation.java import Java, find_java
from evaluation.measure import Instruments, measure
from evaluation.meteor import meteor_process
from evaluation.metrics import METRICS
from evaluation.pairs import Captions, Pairs, join
from reports.report import make_report

ROOT = Path(__file__).parents[1]
NO_CACHE = Instruments(cache=Cache(folder=None))
PAIRS = Pairs(
    image_ids=["a", "b", "c", "d"],
    captions=["a dog runs on the grass", "two men sit on a bench in the park", "a zyxwv stands", "a cat sleeps"],
    references=[
        ["a dog runs on the green grass", "the dog runs"],
        ["two men on a bench in the park", "men sit"],
        ["a zyxwv stands"],
        ["the bird"],
    ],
    likelihoods=[None] * 4,
    origin="refs",
    references_sha256="00",
)


def test_no_score_needs_the_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    """COCOEvalCap builds SPICE, which downloads before any score; here nothing of it is imported, and no connection is tried."""
    monkeypatch.setattr(socket, "socket", _refused)
    monkeypatch.setattr(socket, "create_connection", _refused)
    _, found = measure(PAIRS.captions, PAIRS.references, list(METRICS), NO_CACHE)
    assert set(found) == set(METRICS)
    code = "import sys, evaluation.cli, evaluation.evaluate; print([n for n in sys.modules if 'spice' in n or 'cap.eval' in n])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout == "[]\n"


def _refused(*_: object, **__: object) -> None:
    message = "no internet"
    raise OSError(message)


def test_a_talkative_meteor_does_not_block(tmp_path: Path) -> None:
    """Megabytes on Java's standard error fill a pipe that nobody reads; here they go to a file and the scores come."""
    (tmp_path / "java").write_text(f'#!/bin/sh\nhead -c 3000000 /dev/zero >&2\nexec {find_java().executable} "$@"\n')
    (tmp_path / "java").chmod(0o755)
    with meteor_process(Java(executable=tmp_path / "java")) as meteor:
        assert meteor.score(["a dog"], [["a dog"]])[0] == pytest.approx(1)


def test_another_java_gives_the_same_numbers() -> None:
    """The wheel's Java and the machine's own agree to the last digit, in tokens and in METEOR."""
    other = shutil.which("java")
    if other is None:
        pytest.skip("this machine has no Java of its own")
    names = {"CAPT_JAVA": other}
    code = (
        "from evaluation.measure import *; from evaluation.cache import Cache\n"
        f"texts = {list(PAIRS.captions)!r}, {list(PAIRS.references)!r}\n"
        "tokens, found = measure(*texts, ['METEOR'], Instruments(cache=Cache(folder=None)))\n"
        "print(ascii(tokens), repr(found['METEOR'].scores), found['METEOR'].statistics.tolist())"
    )
    plain = {name: value for name, value in os.environ.items() if name != "CAPT_JAVA"}
    said = [
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=each, capture_output=True, text=True, check=True).stdout
        for each in (plain, plain | names)
    ]
    assert said[0] == said[1] != ""


def test_one_scale_and_it_is_named() -> None:
    """CIDEr lies between 0 and 10 and papers print it ×100: it is stored as the library gives it and shown as papers do."""
    ids = [str(number) for number in range(12)]
    texts = [f"word{number} stands beside thing{number} and waits" for number in range(12)]
    perfect = replace(PAIRS, image_ids=ids, captions=texts, references=[[text] for text in texts], likelihoods=[None] * 12)
    found = evaluate(perfect, metrics=["CIDEr"])
    assert found.scores["CIDEr"].value == pytest.approx(10)
    assert found.scores["CIDEr"].shown_times == 100
    report = make_report(found)
    assert "×100" in report.legend
    assert report.scores[0].value == "1000.0"


def test_a_corpus_score_is_no_mean() -> None:
    """BLEU and METEOR of a corpus follow from sums, not from the images' scores, which are kept beside them."""
    found = evaluate(PAIRS, metrics=["BLEU", "METEOR"], instruments=NO_CACHE)
    for name in ("Bleu_1", "Bleu_2", "METEOR"):
        assert abs(found.scores[name].value - np.mean(found.per_image[name])) > 0.005


def test_references_are_the_raw_ones() -> None:
    """A word outside every vocabulary counts like any other: references with `<unk>` in them would score higher."""
    found = evaluate(PAIRS, metrics=["BLEU", "ROUGE_L"])
    assert found.per_image["ROUGE_L"][2] == pytest.approx(1)
    other = evaluate(
        replace(PAIRS, captions=[*PAIRS.captions[:2], "a <unk> stands", "a cat sleeps"]), metrics=["BLEU", "ROUGE_L"]
    )
    assert other.per_image["ROUGE_L"][2] < 1


def test_cider_depends_on_the_images_scored_and_few_are_warned_of() -> None:
    """Its document frequencies come from the references scored, so fewer images give another number, and a note says so."""
    whole, half = (
        evaluate(PAIRS, metrics=["CIDEr"]),
        evaluate(
            replace(
                PAIRS,
                image_ids=PAIRS.image_ids[:2],
                captions=PAIRS.captions[:2],
                references=PAIRS.references[:2],
                likelihoods=[None] * 2,
            ),
            metrics=["CIDEr"],
        ),
    )
    assert whole.per_image["CIDEr"][0] != pytest.approx(half.per_image["CIDEr"][0])
    assert any("CIDEr over 2 images means little" in note for note in half.notes)


def test_fewer_references_lower_bleu(data_dir: Path) -> None:
    """BLEU-4 grows with every reference, which is why their number is in the signature and unequal ones are not compared."""
    references = read_references(data_dir / "flickr8k", split="dev")
    humans = [texts[0] for texts in references.captions.values()]
    captions = Captions(image_ids=list(references.captions), captions=humans, likelihoods=[None] * len(humans))
    found = [evaluate(join(captions, _first(references, count)), metrics=["BLEU"]) for count in (1, 2, 4)]
    values = [each.scores["Bleu_4"].value for each in found]
    assert values[0] < 0.8 * values[1] < 0.8 * 0.8 * values[2]
    assert [each.conditions["references_per_image"] for each in found] == [[1, 1], [2, 2], [4, 4]]
    assert [f"|nrefs:{count}|" in each.signature for count, each in zip((1, 2, 4), found, strict=True)] == [True] * 3


def _first(references: References, count: int) -> References:
    """Keep some of the references after the first, which is the caption."""
    return replace(references, captions={name: texts[1 : 1 + count] for name, texts in references.captions.items()})
