"""A progress bar with the remaining time, on standard error; if that is no terminal, a line every 15 seconds."""

import sys
import time

EVERY = 15.0  # seconds between lines


class Bar:
    """Show rich's progress bar: `with Bar(title, total, first, "loss") as advance: advance(done, 0.5)`.

    A title of None shows nothing.
    """

    def __init__(self, title: str | None, total: int, first: int, noun: str):
        self.bar = None
        self.lines = title is not None and not sys.stderr.isatty()
        self.title, self.total, self.first, self.noun = title, total, first, noun
        self.begin = self.last = time.monotonic()
        if title is not None and 0 < first < total:
            print(f"{title} continues from {first} of {total}", file=sys.stderr, flush=True)
        if title is not None and not self.lines:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = ("{task.description}", BarColumn(), "{task.completed}/{task.total}", TimeRemainingColumn())
            text = TextColumn(noun + " {task.fields[value]}")
            self.bar = Progress(*columns, text, console=Console(file=sys.stderr))
            self.task = self.bar.add_task(title, total=total, completed=first, value="-")

    def __enter__(self):
        if self.bar is not None:
            self.bar.start()
        return self.advance

    def advance(self, done: int, value: int | float):
        """Move the bar to `done` and show `value`."""
        if self.bar is not None:
            self.bar.update(self.task, completed=done, value=f"{value:.4g}")
        now = time.monotonic()
        if self.lines and (now - self.last > EVERY or done >= self.total):
            self.last = now
            left = (now - self.begin) / max(done - self.first, 1) * (self.total - done)
            print(
                f"{self.title} {done}/{self.total}, {self.noun} {value:.4g}, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.stop()
