"""What happens in a run, as facts that several may hear: one draws them for people, others log them or count them.

In: nothing; these are the nouns that the job tells and listeners hear. Out: the same. Apart, so that neither knows the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from jobs.progress import Summary


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a run is, what earlier starts did included; `seconds_left` is None while nobody can tell."""

    total: int
    done: int
    failed: Mapping[str, int]
    shards: int
    shards_done: int
    images_per_second: float
    seconds_left: float | None
    stage_seconds: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One image that could not be captioned, why in a word and in a sentence."""

    image_id: str
    kind: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Started:
    """A plan is begun: `images` and `shards` are this machine's, `to_caption` what earlier starts left."""

    source: str
    output: str
    images: int
    shards: int
    to_caption: int
    share: str | None


@dataclass(frozen=True)
class Said:
    """Something for people alone."""

    sentence: str


@dataclass(frozen=True)
class Warned:
    """Something that whoever runs this should know, and that does not end it."""

    sentence: str


@dataclass(frozen=True, kw_only=True)
class NetworkLoaded:
    """What captions, and in how many seconds it was loaded."""

    checkpoint: str
    sha256: str
    device: str
    precision: str
    runtime: str
    seconds: float


@dataclass(frozen=True)
class Began:
    """The first images are waited for."""

    standing: Standing


@dataclass(frozen=True)
class Advanced:
    """A few images are done: the captions `(image_id, caption)` of some, and why others have none."""

    standing: Standing
    captions: Sequence[tuple[str, str]] = ()
    failures: Sequence[Failure] = ()


@dataclass(frozen=True)
class Progressed:
    """Some seconds have passed, whatever was done in them."""

    standing: Standing


@dataclass(frozen=True, kw_only=True)
class ShardWritten:
    """A shard is on disk: how many rows of it were made in this start, and in how many seconds."""

    number: int
    rows: int
    failed: Mapping[str, int]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The run, or this share of it, is complete; `is_old` when it was so before and people were told that."""

    summary: "Summary"
    facts: Mapping[str, object] = field(default_factory=dict)
    is_old: bool = False


@dataclass(frozen=True, kw_only=True)
class Interrupted:
    """A signal ended this start: so many of the images are in finished shards."""

    signal: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Broken:
    """An error ended this."""

    sentence: str
    exit_code: int


Event = Started | Said | Warned | NetworkLoaded | Began | Advanced | Progressed | ShardWritten | Finished | Interrupted | Broken


class Listener(Protocol):
    """Whoever hears what happens: one event at a time, from any thread."""

    def hear(self, event: Event) -> None:
        """Take note; an OSError or CaptError is told to all as a warning, once, and ends nothing."""
        ...

    def close(self) -> None:
        """Leave everything in order; nothing more happens."""
        ...
