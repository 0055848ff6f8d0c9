"""Progress output of a run: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.live import Live
    from rich.progress import Progress

Item = TypeVar("Item")

# (metric, name in the line, format), most important first: a narrow terminal drops the last ones. Metrics that a run does not
# have are omitted.
FIGURES = (
    ("reward", "reward", "{:.3f}"),
    ("loss", "loss", "{:.4f}"),
    ("accuracy", "acc", "{:.2f}"),
    ("ndcg@10", "nDCG@10", "{:.3f}"),
    ("format_rate", "format", "{:.2f}"),
    ("think_tokens", "think", "{:.0f}"),
    ("zero_spread_share", "zero-spread", "{:.2f}"),
    ("kl", "kl", "{:.4f}"),
    ("gap", "gap", "{:.1e}"),
)
SECONDS = ("sample", "learn", "sync")


class LiveLine:
    """The progress line of a run.

    Args:
        total: steps of the run.
        done: steps completed before (a resumed run).
        plain_every_s: minimum seconds between plain lines; the first and the last step are always printed.
        now: the clock, in seconds.
    """

    def __init__(self, total: int, done: int = 0, plain_every_s: float = 1.0, now: Callable[[], float] = time.monotonic):
        from rich import get_console

        self._console = get_console()
        self._total, self._now, self._plain_every_s = total, now, plain_every_s
        self._last_step, self._last_time = done, 0.0
        self._step_s, self._shown = 0.0, 0
        self._printed_at: float | None = None
        self._live: Live | None = None

    def update(self, step: int, metrics: Mapping[str, float], seconds: Mapping[str, float]) -> None:
        """Show a step: ``metrics`` by the names in ``FIGURES``, ``seconds`` by those in ``SECONDS``."""
        now = self._now()
        if step > self._last_step:
            if self._shown:  # the time before the first line includes the start of workers and models
                step_s = (now - self._last_time) / (step - self._last_step)
                weight = 1.0 if self._shown == 1 else 0.2
                self._step_s = weight * step_s + (1.0 - weight) * self._step_s
            self._shown += 1
        self._last_step, self._last_time = step, now
        if terminal():
            self._show(self.line(step, metrics, seconds, self._console.width))
        elif self._printed_at is None or now - self._printed_at >= self._plain_every_s or step >= self._total:
            self._printed_at = now
            print(self.line(step, metrics, seconds), flush=True)

    def line(self, step: int, metrics: Mapping[str, float], seconds: Mapping[str, float], width: int | None = None) -> str:
        """The text of a step, with as many figures as fit in ``width`` characters (None: all)."""
        head = f"step {step}/{self._total}"
        spent = " · ".join(f"{name} {seconds[name]:.1f} s" for name in SECONDS if name in seconds)
        left = "" if self._shown < 2 and step < self._total else f"ETA {duration(self._step_s * max(0, self._total - step))}"
        figures = [f"{name} {shape.format(metrics[key])}" for key, name, shape in FIGURES if key in metrics]
        while True:
            text = "  ".join(part for part in (head, *figures, spent, left) if part)
            if width is None or len(text) <= width:
                return text
            if figures:
                figures.pop()
            elif spent:
                spent = ""
            else:
                return text[:width]

    def say(self, text: str) -> None:
        """Print a separate line above the live line."""
        if self._live is not None:
            self._console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)

    def close(self) -> None:
        """Stop updating; the last line stays on the terminal."""
        if self._live is not None:
            self._live.stop()
        self._live = None

    def _show(self, text: str) -> None:
        from rich.live import Live
        from rich.text import Text

        line = Text(text, no_wrap=True, overflow="ellipsis")
        if self._live is None:
            self._live = Live(line, console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(line, refresh=True)


def progress(items: Iterable[Item], description: str, total: int | None = None, plain_every_s: float = 10.0) -> Iterator[Item]:
    """Iterate over ``items`` with a progress bar on a terminal, otherwise with a plain line every ``plain_every_s`` seconds."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    bar = _bar() if terminal() else None
    if bar is None:
        yield from _plain(items, description, total, plain_every_s)
        return
    with bar:
        yield from bar.track(items, total=total, description=description)


def terminal() -> bool:
    """Whether standard output is a terminal with cursor control."""
    from rich import get_console

    console = get_console()
    return console.is_terminal and not console.is_dumb_terminal


def duration(seconds: float) -> str:
    """``0:07``, ``12:40``, ``3:05:00``, ``2 d 03:00``."""
    whole = round(seconds)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24:02d}:{minute:02d}"
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _bar() -> Progress | None:
    """A bar that disappears at its end; None if another live display is active (older versions of rich allow only one)."""
    from rich import get_console
    from rich.errors import LiveError
    from rich.progress import Progress

    bar = Progress(console=get_console(), transient=True)
    try:
        bar.start()
    except LiveError:
        return None
    return bar


def _plain(items: Iterable[Item], description: str, total: int | None, every_s: float) -> Iterator[Item]:
    start = last = first = time.monotonic()
    count = 0
    for count, item in enumerate(items, 1):
        if count == 1:
            first = time.monotonic()  # the time before it includes the start of whatever works
        yield item
        if (now := time.monotonic()) - last >= every_s:
            last = now
            share = f"{count}/{total}" if total else f"{count}"
            left = f", ETA {duration((now - first) / (count - 1) * max(0, total - count))}" if total and count > 1 else ""
            print(f"{description}: {share}{left}", flush=True)
    if last != start:
        print(f"{description}: {count} in {duration(time.monotonic() - start)}", flush=True)
