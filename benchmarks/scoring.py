"""Measure how long scoring takes beside plain pycocoevalcap, and how much memory many images need.

Run: `python benchmarks/scoring.py [--quick] [CAPTIONS REFERENCES [SPLIT]]`, by default over 1,000 and 31,000 images with five
references each, made from a small grammar with a fixed seed (31,000: Flickr30k's size); quickly over 200 and 1,000. Every line
is a process of its own, so that each pays for its own Java; the lines of a round follow each other, and the median of the
rounds counts. Times are from the end of Python's imports to the last score. Memory is the sum of the peaks of the judge and of
the Java it started. The claims: the whole run takes at most 1.15 times what METEOR's Java takes alone; all but METEOR, under
2 seconds for 1,000 images; 10,000 resamples of all metrics in a paired comparison, under 5; 31,000 images, within 2 GB.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROUNDS, SMALL, LARGE = 3, 1_000, 31_000
QUICK_ROUNDS, QUICK_SMALL, QUICK_LARGE = 1, 200, 1_000
REFERENCES_PER_IMAGE = 5
MEGABYTE, KIBIBYTE = 1_000_000, 1024
GRAMMAR = (
    ("a", "the", "one", "two", "three", "a young", "an old", "a small", "a group of"),
    (
        "man",
        "woman",
        "boy",
        "girl",
        "dog",
        "brown dog",
        "child",
        "cyclist",
        "climber",
        "player",
        "crowd",
        "couple",
        "skateboarder",
    ),
    ("in a red shirt", "in a blue jacket", "with a stick", "wearing a helmet", "with long hair", "", "", ""),
    ("is running", "is sitting", "jumps", "stands", "plays", "walks slowly", "looks up", "is riding a bike", "throws a ball"),
    ("on the grass", "in the snow", "near the water", "on a bench", "in front of a building", "at the beach", "along a road"),
    ("", "", "while others watch", "on a sunny day", "next to a tree", "in the city", "with a friend"),
)


def write_captions(images: int, path: Path) -> None:
    """Write one machine caption and five references for each image, from the grammar.

    Args:
        images: How many.
        path: JSON of two lists.
    """
    generator = random.Random(images)  # noqa: S311  no secret

    def sentence(extra: str) -> str:
        return " ".join(filter(None, (generator.choice(words) for words in GRAMMAR))) + extra

    words = [f"{generator.choice('bcdfglmnprst')}{generator.choice('aeiou')}{number}" for number in range(images)]
    captions = [sentence("") for _ in range(images)]
    references = [[sentence(f" {generator.choice(words)} .") for _ in range(REFERENCES_PER_IMAGE)] for _ in range(images)]
    path.write_text(json.dumps([captions, references]))


def read_real(captions: str, references: str, split: str | None, path: Path) -> int:
    """Write real captions and references in the same form.

    Args:
        captions: Of `capt-batch run`, or another form.
        references: In any form.
        split: Which split of the references.
        path: JSON of two lists.

    Returns:
        The number of images.
    """
    from evaluation.pairs import join, load_captions, load_references  # noqa: PLC0415  only here

    pairs = join(load_captions(Path(captions)), load_references(Path(references), split=split))
    path.write_text(json.dumps([list(pairs.captions), [list(each) for each in pairs.references]]))
    return len(pairs.captions)


def meteor_alone(captions: list[str], references: list[list[str]]) -> Callable[[], object]:
    """Give METEOR's Java and nothing else: lines in, scores out, texts already tokenised."""
    from evaluation.java import find_java  # noqa: PLC0415  each line imports what it measures
    from evaluation.meteor import meteor_process  # noqa: PLC0415  as above

    def work() -> object:
        with meteor_process(find_java()) as meteor:
            return meteor.score(captions, references)[0]

    return work


def plain(captions: list[str], references: list[list[str]]) -> Callable[[], object]:
    """Give pycocoevalcap as its own example calls it, without SPICE: tokeniser, then one scorer after the other."""
    from pycocoevalcap.bleu.bleu import Bleu  # noqa: PLC0415  each line imports what it measures
    from pycocoevalcap.cider.cider import Cider  # noqa: PLC0415  as above
    from pycocoevalcap.meteor.meteor import Meteor  # noqa: PLC0415  as above
    from pycocoevalcap.rouge.rouge import Rouge  # noqa: PLC0415  as above
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer  # noqa: PLC0415  as above

    def work() -> object:
        tokenizer = PTBTokenizer()
        gts = tokenizer.tokenize({n: [{"caption": text} for text in texts] for n, texts in enumerate(references)})
        res = tokenizer.tokenize({n: [{"caption": text}] for n, text in enumerate(captions)})
        return [scorer.compute_score(gts, res)[0] for scorer in (Bleu(4), Meteor(), Rouge(), Cider())]

    return work


def judged(captions: list[str], references: list[list[str]], *, meteor: bool, cache: Path | None) -> Callable[[], object]:
    """Give this project's scoring: all scores, their intervals and figures."""
    from evaluation.cache import Cache  # noqa: PLC0415  each line imports what it measures
    from evaluation.evaluate import evaluate  # noqa: PLC0415  as above
    from evaluation.measure import Instruments  # noqa: PLC0415  as above
    from evaluation.metrics import METRICS  # noqa: PLC0415  as above
    from evaluation.pairs import Pairs  # noqa: PLC0415  as above

    pairs = Pairs(
        image_ids=[f"{number}.jpg" for number in range(len(captions))],
        captions=captions,
        references=references,
        likelihoods=[None] * len(captions),
        origin="benchmark",
        references_sha256="0",
    )
    metrics = [name for name in METRICS if meteor or name != "METEOR"]
    return lambda: evaluate(pairs, metrics=metrics, instruments=Instruments(cache=Cache(folder=cache)))


def compared(captions: list[str], references: list[list[str]]) -> Callable[[], object]:
    """Give a paired comparison of all metrics with 10,000 resamples, from stored statistics."""
    from evaluation.comparison import paired_differences  # noqa: PLC0415  each line imports what it measures
    from evaluation.scores import Evaluation  # noqa: PLC0415  as above
    from evaluation.significance import Bootstrap  # noqa: PLC0415  as above

    folder = Path(os.environ["CAPT_BENCHMARK_CACHE"])
    one, other = (judged(each, references, meteor=True, cache=folder)() for each in (captions, [*captions[1:], captions[0]]))
    assert isinstance(one, Evaluation)  # noqa: S101  for the type checker
    assert isinstance(other, Evaluation)  # noqa: S101  as above
    return lambda: paired_differences(one, other, Bootstrap(resamples=10_000))


LINES = {
    "METEOR's Java alone": meteor_alone,
    "plain pycocoevalcap": plain,
    "capt-eval score": lambda captions, references: judged(captions, references, meteor=True, cache=None),
    "capt-eval score, all but METEOR": lambda captions, references: judged(captions, references, meteor=False, cache=None),
    "capt-eval score, same captions again": lambda captions, references: judged(
        captions, references, meteor=True, cache=Path(os.environ["CAPT_BENCHMARK_CACHE"])
    ),
    "capt-eval compare, 10,000 resamples": compared,
}


def child(line: str, texts: Path) -> None:
    """Do the work of one line in this process and print its seconds."""
    captions, references = json.loads(texts.read_text())
    with redirect_stdout(sys.stderr):  # pycocoevalcap prints
        work = LINES[line](captions, references)
        begun = time.perf_counter()
        work()
        seconds = time.perf_counter() - begun
    print(seconds)


def measure(line: str, texts: Path, cache: Path) -> tuple[float, float]:
    """Run one line in a process of its own.

    Args:
        line: A key of LINES.
        texts: What `write_captions` wrote.
        cache: Where the lines that use it keep Java's results.

    Returns:
        Seconds, and MB: the summed peaks of the process and of those it started.
    """
    command = [sys.executable, __file__, "--child", line, str(texts)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CAPT_BENCHMARK_CACHE": str(cache)}
    peaks: dict[int, int] = {}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment, start_new_session=True
    ) as process:
        watcher = threading.Thread(target=_watch, args=(process, peaks))
        watcher.start()
        said, _ = process.communicate()
        watcher.join()
    if process.returncode:
        message = f"{line} failed; run {' '.join(command)} to see why"
        raise SystemExit(message)
    return float(said.splitlines()[-1]), sum(peaks.values()) * KIBIBYTE / MEGABYTE


def _watch(process: "subprocess.Popen[str]", peaks: dict[int, int]) -> None:
    """Read the peak of every process of the session, in KiB, until the first one ends."""
    while process.poll() is None:
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, StopIteration, IndexError, ValueError):
                if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == process.pid:  # its session
                    lines = (folder / "status").read_text().splitlines()
                    peaks[int(folder.name)] = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        time.sleep(0.05)


def main() -> None:
    """Measure and print one line for each way of scoring."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--child"]:
        child(arguments[1], Path(arguments[2]))
        return
    quick = "--quick" in arguments
    rounds, small, large = (QUICK_ROUNDS, QUICK_SMALL, QUICK_LARGE) if quick else (ROUNDS, SMALL, LARGE)
    real = [argument for argument in arguments if argument != "--quick"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = folder / "small.json"
        if real:
            small = read_real(real[0], real[1], real[2] if len(real) > 2 else None, texts)  # noqa: PLR2004  a split was named
        else:
            write_captions(small, texts)
        measure("capt-eval compare, 10,000 resamples", texts, folder)  # fills the cache
        found = _rounds(rounds, texts, folder)
        print(f"{small:,} images, {'given' if real else 'made'} captions, median of {rounds}, {os.cpu_count()} cores")
        alone = found["METEOR's Java alone"][0]
        for line, (seconds, peak) in found.items():
            print(f"{line:<40} {seconds:>7.2f} s  {seconds / alone:>6.2f} × METEOR alone  {peak:>6,.0f} MB")
        write_captions(large, folder / "large.json")
        seconds, peak = measure("capt-eval score", folder / "large.json", folder)
        print(f"{f'capt-eval score, {large:,} images':<40} {seconds:>7.2f} s  {'':>21}  {peak:>6,.0f} MB")


def _rounds(rounds: int, texts: Path, cache: Path) -> dict[str, tuple[float, float]]:
    """Measure all lines side by side, several times; give medians."""
    found: dict[str, list[tuple[float, float]]] = {line: [] for line in LINES}
    for _ in range(rounds):
        for line in LINES:
            found[line].append(measure(line, texts, cache))
    return {
        line: (statistics.median(seconds for seconds, _ in each), statistics.median(peak for _, peak in each))
        for line, each in found.items()
    }


if __name__ == "__main__":
    main()
