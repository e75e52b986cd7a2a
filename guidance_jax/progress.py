"""A progress bar with the time left, on standard error, where it is wanted."""

import sys


class Bar:
    """rich's bar as a context: `with Bar(title, total, first, "loss") as advance: advance(done, 0.5)`."""

    def __init__(self, title: str | None, total: int, first: int, noun: str):
        self.bar = None
        if title is not None:
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
        """Move to `done` and show `value`."""
        if self.bar is not None:
            self.bar.update(self.task, completed=done, value=f"{value:.4g}")

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.stop()
