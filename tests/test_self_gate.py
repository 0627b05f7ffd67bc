"""The project's own gate: the captioner that ships captions fixed photographs, as CI would, and is held against a baseline.

Eight photographs are too few for n-grams to mean much: there it is perplexity that tells whether the network got worse, under the
default rules, which ask for a drop that is both large and significant. They see a network that is disturbed; that it no longer
looks at the photographs is seen by the 964 development photographs, where they are.
"""

import faulthandler
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from capt.captions import read_captions
from capt.checkpoint import load_checkpoint, save_checkpoint
from capt.model import Decoder
from capt.references import read_references

ROOT = Path(__file__).parents[1]
BASELINES = ROOT / "tests" / "baselines"
RENEW = "CAPT_RENEW_BASELINES"
PATIENCE = 1500  # seconds for one program
COMMAND = f"{RENEW}=1 python -m pytest tests/test_self_gate.py"


@dataclass(frozen=True, kw_only=True)
class _Photographs:
    """Photographs with references, and the baseline of the captioner that ships."""

    source: Path
    references: Path
    baseline: Path
    split: tuple[str, ...] = ()

    def caption(self, folder: Path, *options: str) -> Path:
        """Caption them with the program; give the folder of captions."""
        output = folder / "captions"
        fixed = ("--precision", "float32", "--references", str(self.references), "--output", str(output), "--quiet")
        ended = _run("capt-batch", "run", str(self.source), *self.split, *fixed, *options)
        assert ended.returncode == 0, ended.stderr
        return output

    def gate(self, captions: Path, *options: str) -> subprocess.CompletedProcess[str]:
        """Hold captions against the baseline."""
        known = ("--references", str(self.references), *self.split, "--baseline", str(self.baseline))
        return _run("capt-eval", "gate", str(captions), *known, *options)


def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Start a program of this environment from the project's root."""
    path = Path(sys.executable).with_name(program)
    environment = {name: value for name, value in os.environ.items() if name != "GITHUB_STEP_SUMMARY"}
    environment["OMP_NUM_THREADS"] = "1"  # the same sums in the same order wherever this runs
    return subprocess.run(
        [path, *arguments], capture_output=True, text=True, check=False, cwd=ROOT, env=environment, timeout=PATIENCE
    )


@pytest.fixture(autouse=True)
def _patience() -> None:
    """Let a slow machine caption a thousand photographs: here every program has a time limit of its own, instead of the test."""
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module", params=["examples", "dev"])
def photographs(request: pytest.FixtureRequest) -> _Photographs:
    """Give the examples, and the development photographs where they are."""
    baseline = BASELINES / f"{request.param}.parquet"
    if request.param == "examples":
        folder = ROOT / "examples"
        return _Photographs(source=folder / "photos", references=folder / "references.jsonl", baseline=baseline)
    data: Path = request.getfixturevalue("data_dir") / "flickr8k"
    return _Photographs(source=data, references=data, baseline=baseline, split=("--split", "dev"))


def test_the_captioner_is_no_worse_than_its_baseline(photographs: _Photographs, tmp_path: Path) -> None:
    """No change of encoder, decoder, search, preprocessing or checkpoint lands worse unnoticed."""
    captions = photographs.caption(tmp_path)
    ended = photographs.gate(captions, *(["--update-baseline"] if os.environ.get(RENEW) else []))
    assert ended.returncode == 0, (
        f"The captioner got worse than {photographs.baseline.relative_to(ROOT)}:\n{ended.stderr}\n"
        f"If that is meant, look at the numbers above, renew the baselines and commit them:\n    {COMMAND}\n"
    )


@pytest.mark.parametrize("photographs", ["examples"], indirect=True)
def test_captions_cut_short_fail(photographs: _Photographs, tmp_path: Path) -> None:
    """A search that stops after four words fails by CIDEr and METEOR; perplexity, which knows no search, cannot see it."""
    ended = photographs.gate(photographs.caption(tmp_path, "--max-length", "4"))
    assert ended.returncode == 1, ended.stderr
    assert "CIDEr fell by" in ended.stderr
    assert "METEOR fell by" in ended.stderr
    assert "perplexity rose" not in ended.stderr


def _noise(decoder: Decoder) -> None:
    """Add half of their own spread to all matrices."""
    generator = torch.Generator().manual_seed(1)
    for weight in decoder.parameters():
        if weight.dim() > 1:
            weight.add_(0.5 * weight.std() * torch.randn(weight.shape, generator=generator))


def _ignore_attention(decoder: Decoder) -> None:
    """Look at all of the photograph alike, whatever the word: nobody would notice by reading captions."""
    decoder.attention.energy.weight.zero_()


def _named(value: object) -> str:
    return value if isinstance(value, str) else str(getattr(value, "__name__", value))


DAMAGES = [
    ("examples", _noise, "perplexity rose by"),
    ("dev", Decoder.ignore_images, "perplexity rose by"),
    ("dev", _ignore_attention, "CIDEr fell by"),
]


@pytest.mark.parametrize(("photographs", "damage", "sentence"), DAMAGES, indirect=["photographs"], ids=_named)
def test_a_damaged_network_fails(
    photographs: _Photographs, damage: Callable[[Decoder], None], sentence: str, tmp_path: Path
) -> None:
    """Disturbed weights, a decoder that does not see, and attention that attends to nothing: each ends with 1 and says why."""
    whole = load_checkpoint()
    with torch.no_grad():
        damage(whole.captioner.decoder)
    path = tmp_path / "damaged.safetensors"
    save_checkpoint(
        path, captioner=whole.captioner, vocabulary=whole.vocabulary, preprocessing=whole.preprocessing, card=whole.card
    )
    ended = photographs.gate(photographs.caption(tmp_path, "--checkpoint", str(path)))
    assert ended.returncode == 1, ended.stderr
    assert sentence in ended.stderr
    assert "What differs between the runs" in ended.stderr


@pytest.mark.parametrize("photographs", ["examples"], indirect=True)
@pytest.mark.parametrize("options", [("--precision", "bfloat16"), ("--batch-size", "3", "--workers", "1")])
def test_another_machine_passes(photographs: _Photographs, options: tuple[str, ...], tmp_path: Path) -> None:
    """What moves the last digits, and bfloat16 moves far more than another processor does, is no regression."""
    ended = photographs.gate(photographs.caption(tmp_path, *options))
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("photographs", ["dev"], indirect=True)
def test_automatic_precision_keeps_the_captions(photographs: _Photographs, tmp_path: Path) -> None:
    """What `auto` chooses here writes 98 % of float32's captions, and no score is significantly worse."""
    captions = photographs.caption(tmp_path, "--precision", "auto")
    exact = dict(zip(*pq.read_table(photographs.baseline, columns=["image_id", "caption"]).to_pydict().values(), strict=True))
    written = read_captions(captions).select(["image_id", "caption"]).to_pylist()
    kept = sum(exact[row["image_id"]] == row["caption"] for row in written)
    assert kept >= 0.98 * len(exact), f"{kept} of {len(exact)} captions are those of float32"
    ended = photographs.gate(captions, "--strict")
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("name", ["examples", "dev"])
def test_the_committed_baselines_are_small_and_hold_no_human_captions(name: str) -> None:
    """A few hundred bytes a photograph: ids, machine captions, numbers, conditions; not one sentence of a person."""
    path = BASELINES / f"{name}.parquet"
    table = pq.read_table(path)
    assert path.stat().st_size < 25_000 + 200 * table.num_rows
    assert [field.name for field in table.schema if str(field.type) != "double"] == ["image_id", "caption"]
    if name == "examples":
        written = {text for texts in read_references(ROOT / "examples" / "references.jsonl").captions.values() for text in texts}
        assert not any(text in str(table.schema.metadata) or text in table.column("caption").to_pylist() for text in written)
