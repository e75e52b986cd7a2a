"""`guidance-jax demo | train | convert | methods | sample | compare | evaluate`; `commands` has a file for each."""

import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import Annotated, NoReturn

try:
    import typer
    from rich.console import Console
except ModuleNotFoundError:
    sys.exit('the command line needs typer and rich: pip install "guidance_jax[demo]"')

INTERRUPTED = "interrupted: everything saved so far is kept; run the same command again to continue"
try:  # these imports take seconds, in which the user may press Ctrl-C
    import jax

    import guidance_jax
    from guidance_jax.app.commands.compare import compare
    from guidance_jax.app.commands.convert import convert
    from guidance_jax.app.commands.demo import demo
    from guidance_jax.app.commands.evaluate import evaluate
    from guidance_jax.app.commands.methods import methods
    from guidance_jax.app.commands.sample import sample
    from guidance_jax.app.commands.train import train
    from guidance_jax.app.schema import show
    from guidance_jax.app.terminal import console
    from guidance_jax.core import Refused
    from guidance_jax.files import cache, interruptible
except KeyboardInterrupt:
    print(INTERRUPTED, file=sys.stderr)
    sys.exit(130)

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Guidance for diffusion models in JAX.")
COMMANDS = {"Start here": (demo,), "Models": (train, convert), "Sampling": (methods, sample, compare, evaluate)}
USAGE = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
LINE = 2000  # most characters of a message


def end_in_one_line(f: Callable) -> Callable:
    """Wrap the command `f`, so that Ctrl-C ends it at any point with a message of one line."""

    @wraps(f)
    def run(*args, **kwargs):
        try:
            with interruptible():
                return f(*args, **kwargs)
        except KeyboardInterrupt:
            report_interruption()

    return run


for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(end_in_one_line(command))


@app.callback(invoke_without_command=True)
def about(version: Annotated[bool, typer.Option("--version", help="Print the versions and stop.")] = False) -> None:
    if version:
        console.print(f"guidance_jax {guidance_jax.__version__}, JAX {jax.__version__}", highlight=False)
        raise typer.Exit


def main() -> None:
    """Run the command line. An error of use prints one line and exits with code 2; Ctrl-C does so with code 130."""
    try:
        # keep compiled programs between calls
        jax.config.update("jax_compilation_cache_dir", str(cache("compiled")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        code = app(standalone_mode=False)
    except Refused as error:
        complain(f"error: {error}", 2)
    except USAGE as error:  # typer's own errors, which it would print in a box
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message())  # the help, if it was not printed yet
            sys.exit(2)
        context = getattr(error, "ctx", None)  # only some classes of click's errors have it
        where = "guidance-jax" if context is None else context.command_path
        complain(f"error: {error.format_message().rstrip('.')}; run {where} --help for the options", 2)
    except OSError as error:
        name = "a file" if error.filename is None else show(str(error.filename))
        complain(f"error: {name}: {error.strerror or error}; fix this and start again", 2)
    except (KeyboardInterrupt, typer.Abort):
        report_interruption()
    if code == 130:  # typer's code for an interruption before or after a command
        report_interruption()
    sys.exit(code if isinstance(code, int) else 0)


def report_interruption() -> NoReturn:
    """Report Ctrl-C and exit; a second Ctrl-C ends at once whatever is still closing."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    complain(INTERRUPTED, 130)


def complain(text: str, code: int) -> NoReturn:
    """Print `text` as one line of printable characters on standard error, and exit with `code`."""
    line = " ".join("".join(c if c.isprintable() or c.isspace() else ascii(c)[1:-1] for c in text).split())
    line = line if len(line) <= LINE else f"{line[: LINE // 2]} ... {line[-LINE // 2 :]}"
    Console(stderr=True).print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
