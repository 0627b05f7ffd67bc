"""How training goes, for people: a table on the terminal, TensorBoard files, and a picture of the curves.

In: steps and epochs as they end. Out: text on stderr, files in the run's folder. Apart, because the loop must not know who
watches.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from capt.shown import in_log
from jobs.interruption import Interruption
from jobs.training.loop import Epoch

_SECONDS_BETWEEN_LINES = 30.0


def columns(epoch: Epoch) -> tuple[str, ...]:
    """Name the cells of an epoch's line.

    Args:
        epoch: The epoch; one of self-critical training has a reward instead of a loss.

    Returns:
        The heading of each.
    """
    learned = "train loss" if epoch.reward is None else "reward"
    return ("epoch", learned, "perplexity", "BLEU-4", "CIDEr", "rate", "time", "")


def epoch_row(epoch: Epoch) -> tuple[str, ...]:
    """Give the cells of an epoch's line.

    Args:
        epoch: The epoch.

    Returns:
        As many cells as the table has columns; BLEU-4 and CIDEr ×100.
    """
    return (
        str(epoch.epoch),
        f"{epoch.train_loss if epoch.reward is None else epoch.reward:.3f}",
        f"{epoch.perplexity:.2f}",
        f"{100 * epoch.bleu_4:.1f}",
        f"{100 * epoch.cider:.1f}",
        f"{epoch.learning_rate:.1e}",
        f"{epoch.seconds:.0f} s",
        "best" if epoch.best else "",
    )


def epoch_table(epochs: Sequence[Epoch]) -> Table:
    """Show all epochs so far.

    Args:
        epochs: In order, at least one.

    Returns:
        A table fit for 80 columns.
    """
    table = Table(
        box=None, pad_edge=False, caption="validation; BLEU-4 and CIDEr ×100, on training tokens", caption_justify="left"
    )
    for name in columns(epochs[0]):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for epoch in epochs:
        table.add_row(*epoch_row(epoch))
    return table


class Watcher:
    """Shows steps and epochs on stderr, and keeps TensorBoard files and the picture of the curves up to date."""

    def __init__(self, output: Path, console: Console, *, quiet: bool = False) -> None:
        """Get ready to watch.

        Args:
            output: The run's folder.
            console: Where people read.
            quiet: Show nothing; files are written all the same.
        """
        self._output, self._console, self._quiet = output, console, quiet
        self._epochs: Sequence[Epoch] = ()
        self._status = ""
        self._shown = 0
        self._spoke = time.monotonic()
        self._writer: Any = None  # TensorBoard's, from the first epoch on: a command that is refused leaves nothing behind
        self._recording = False
        self._live = (
            Live(console=console, get_renderable=self._render, refresh_per_second=2)
            if console.is_terminal and not quiet
            else None
        )

    def __enter__(self) -> Self:
        """Begin to show."""
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop showing and close the files."""
        self._status = ""
        if self._live:
            self._live.stop()
        if self._writer:
            with Interruption() as interruption:
                self._writer.close()
            interruption.pass_on()

    def say(self, sentence: str) -> None:
        """Show a sentence.

        Args:
            sentence: For people.
        """
        if not self._quiet:
            self._console.print(Text(in_log(sentence)))

    def step(self, what: str, done: int, steps: int, figure: str) -> None:
        """Show how far something is.

        Args:
            what: Such as an epoch.
            done: Steps done.
            steps: Steps in all.
            figure: What came of it so far.
        """
        self._status = f"{what}: step {done:,} of {steps:,}, {figure}"
        if self._live is None and time.monotonic() - self._spoke > _SECONDS_BETWEEN_LINES:
            self._spoke = time.monotonic()
            self.say(self._status)

    def epoch(self, epochs: Sequence[Epoch]) -> None:
        """Show an epoch that ended, and bring the files up to date.

        Ctrl-C waits until they are: TensorBoard writes in a thread, and an interruption that falls between taking its lock and
        knowing that it was taken would leave closing to wait for ever.

        Args:
            epochs: All so far.
        """
        with Interruption() as interruption:
            self._tell(epochs)
        interruption.pass_on()

    def _tell(self, epochs: Sequence[Epoch]) -> None:
        self._epochs, self._status = tuple(epochs), ""
        if self._live is None and not self._quiet:
            if not self._shown:
                self._console.print(Text(_line(columns(epochs[0]))))
            for epoch in epochs[self._shown :]:
                self._console.print(Text(_line(epoch_row(epoch))))
                self._console.print(Text(in_log(f"      “{epoch.example}”")))
        for epoch in epochs[self._shown :]:
            self._record(epoch)
        self._shown = len(epochs)
        draw_curves(epochs, self._output / "curves.png")

    def _render(self) -> RenderableType:
        table = epoch_table(self._epochs) if self._epochs else Text("")
        return Group(table, Text(self._status, style="dim"))

    def _record(self, epoch: Epoch) -> None:
        if not self._recording:
            self._recording, self._writer = True, _tensorboard(self._output)
        if self._writer is None:
            return
        for name in ("train_loss", "reward", "perplexity", "bleu_4", "cider", "learning_rate", "seconds"):
            if getattr(epoch, name) is not None:
                self._writer.add_scalar(name, getattr(epoch, name), epoch.epoch)
        self._writer.flush()


def _line(cells: Sequence[str]) -> str:
    return " ".join(cell.rjust(10 if place else 5) for place, cell in enumerate(cells)).rstrip()


def _tensorboard(output: Path) -> Any:  # noqa: ANN401 - torch's writer has no types
    try:
        from torch.utils.tensorboard.writer import SummaryWriter  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    return SummaryWriter(str(output / "tensorboard"))


def draw_curves(epochs: Sequence[Epoch], path: Path) -> None:
    """Draw loss, perplexity and scores by epoch.

    Args:
        epochs: In order, at least one.
        path: The picture; its ending says the format.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    numbers = [epoch.epoch for epoch in epochs]
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    rewards = [epoch.reward for epoch in epochs if epoch.reward is not None]
    panels = (
        ("reward of captions drawn", [("train", rewards)])
        if rewards
        else ("training loss (nats per token)", [("train", [epoch.train_loss for epoch in epochs])]),
        ("validation perplexity", [("validation", [epoch.perplexity for epoch in epochs])]),
        (
            "validation scores ×100",
            [("CIDEr", [100 * epoch.cider for epoch in epochs]), ("BLEU-4", [100 * epoch.bleu_4 for epoch in epochs])],
        ),
    )
    for axis, (title, curves) in zip(axes, panels, strict=True):
        for (label, values), marker in zip(curves, "os", strict=False):
            axis.plot(numbers, values, marker=marker, markersize=4, label=label)
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        if len(curves) > 1:
            axis.legend()
    figure.savefig(path, dpi=110)
