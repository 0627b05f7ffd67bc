"""Everything that changes a number, as data and as one line of text that travels with it.

In: what was scored and how. Out: conditions, and the signature made of them. Apart, because two scores may be compared only
when what is written here agrees.
"""

import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from evaluation import tokenizer
from evaluation.metrics import METRICS
from evaluation.pairs import Pairs
from evaluation.scores import mapping_of
from evaluation.significance import Bootstrap

_GIT_SECONDS = 5.0
_SHORT = 12  # hexadecimal digits of a sha256 in the signature


def conditions(pairs: Pairs, metrics: Sequence[str], bootstrap: Bootstrap) -> dict[str, object]:
    """List everything that changes a number.

    Args:
        pairs: What was scored.
        metrics: Keys of METRICS.
        bootstrap: How the intervals were computed.

    Returns:
        Plain values by name, for JSON.
    """
    counts = [len(texts) for texts in pairs.references]
    return {
        "references": pairs.origin,
        "references_sha256": pairs.references_sha256,
        "references_per_image": [min(counts), max(counts)],
        "images": len(counts),
        "images_failed": pairs.failed,
        "images_missing": pairs.missing,
        "captions_extra": pairs.extra,
        "tokenizer": tokenizer.NAME,
        "metrics": {name: METRICS[name].version for name in metrics},
        "bootstrap": {"resamples": bootstrap.resamples, "seed": bootstrap.seed, "confidence": bootstrap.confidence},
        "versions": {"capt": version("capt"), "pycocoevalcap": version("pycocoevalcap")},
        "run": pairs.fingerprint.to_dict() if pairs.fingerprint else None,
    }


def current_commit() -> str | None:
    """Give the commit of the current folder, so that a score kept in a CI log can be traced.

    Returns:
        Its sha1, with `-dirty` after it when files were changed since; None outside a repository, or without git.
    """
    try:
        done = subprocess.run(
            ("git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"),  # noqa: S607  # the user's own git
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def signature(found: Mapping[str, object]) -> str:
    """Write conditions as one line.

    Args:
        found: What `conditions` gives.

    Returns:
        `key:value` joined by bars; equal lines mean comparable numbers.
    """
    low, high = _pair(found["references_per_image"])
    parts = {
        "refs": found["references"],
        "sha": str(found["references_sha256"])[:_SHORT],
        "nrefs": low if low == high else f"{low}-{high}",
        "n": found["images"],
        "failed": found["images_failed"] or None,
        "missing": found["images_missing"] or None,
        "tok": found["tokenizer"],
        **mapping_of(found["metrics"]),
        **_run(found["run"]),
        **mapping_of(found["versions"]),
        "boot": "{resamples}@{seed}".format(**mapping_of(found["bootstrap"])),
    }
    return "|".join(f"{key}:{value}" for key, value in parts.items() if value is not None)


def _run(run: object) -> dict[str, object]:
    """Take out of a run's fingerprint what names it: checkpoint and decoding."""
    if not isinstance(run, Mapping):
        return {}
    decoding = ",".join(f"{name}={value}" for name, value in sorted(mapping_of(run["decoding"]).items()))
    checkpoint = f"{run['checkpoint_name']}@{str(run['checkpoint_sha256'])[:_SHORT]}"
    return {"ckpt": checkpoint, "decode": decoding, "precision": run["precision"]}


def _pair(value: object) -> tuple[int, int]:
    low, high = value if isinstance(value, Sequence) else (0, 0)
    return int(low), int(high)
