"""The console script `grading`, also as `python -m grading`."""

import sys
from collections.abc import Sequence
from importlib.metadata import version
from io import TextIOWrapper

from cyclopts import App, CycloptsError, Parameter


def main(arguments: Sequence[str] | None = None) -> None:
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot encode a character shows a question mark instead.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    commands()(arguments)


def commands() -> App:
    """Return the commands; a command's function is imported on use."""
    app = App(
        name="grading",
        help="A platform that grades essays and charges for the work.",
        help_epilogue="Examples:\n  grading demo --quick",
        help_format="plaintext",
        version=lambda: version("entitlements-grading"),
        default_parameter=Parameter(negative=""),
        error_formatter=_explained,
    )
    app.command(
        "grading.demo.run:demo",
        name="demo",
        help="Run a scenario of schools, essays and model calls against a real service.",
        help_epilogue="Examples:\n"
        "  grading demo --quick\n"
        "  grading demo --database postgresql://ada@localhost/trial --json\n"
        "  grading demo --essays mine.csv",
    )
    return app


def _explained(error: CycloptsError) -> str:
    command = " ".join(("grading", *(error.command_chain or ())))
    return f"grading: {error}\nTry: {command} --help"


if __name__ == "__main__":
    main()
