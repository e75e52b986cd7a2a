"""`guidance-jax demo | train | convert | methods | sample | compare | evaluate`: a file of `commands` each."""

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
try:  # they take seconds, in which somebody may think better of it
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
LINE = 2000  # characters of a message


def end_in_one_line(f: Callable) -> Callable:
    """The command `f`, which Ctrl-C ends with one line, wherever it comes."""

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
    """Entry point: errors of use are one line and exit code 2, Ctrl-C is one line and 130."""
    try:
        # compiled programs are kept between calls
        jax.config.update("jax_compilation_cache_dir", str(cache("compiled")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        code = app(standalone_mode=False)
    except Refused as error:
        complain(f"error: {error}", 2)
    except USAGE as error:  # typer's own, which it would print as a box
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message())  # the help, where it was not printed yet
            sys.exit(2)
        context = getattr(error, "ctx", None)  # click's errors have it or not, by their class
        where = "guidance-jax" if context is None else context.command_path
        complain(f"error: {error.format_message().rstrip('.')}; run {where} --help for the options", 2)
    except OSError as error:
        name = "a file" if error.filename is None else show(str(error.filename))
        complain(f"error: {name}: {error.strerror or error}; fix this and start again", 2)
    except (KeyboardInterrupt, typer.Abort):
        report_interruption()
    if code == 130:  # typer's, of an interruption before or after a command
        report_interruption()
    sys.exit(code if isinstance(code, int) else 0)


def report_interruption() -> NoReturn:
    """The end by Ctrl-C; a second one ends what is still closing, without a word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    complain(INTERRUPTED, 130)


def complain(text: str, code: int) -> NoReturn:
    """One line on standard error, whatever the text holds, and the end."""
    line = " ".join("".join(c if c.isprintable() or c.isspace() else ascii(c)[1:-1] for c in text).split())
    line = line if len(line) <= LINE else f"{line[: LINE // 2]} ... {line[-LINE // 2 :]}"
    Console(stderr=True).print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
