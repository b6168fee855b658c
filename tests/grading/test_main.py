"""The console script of the grading platform: help, examples, exit codes."""

import shlex

import pytest

from grading.__main__ import commands, main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int | str | None, str, str]:
    """Return the exit code, and the text on standard output and standard error."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return (end.value.code, *capsys.readouterr())


def test_the_examples_of_the_help_are_parsed(capsys: pytest.CaptureFixture[str]) -> None:
    code, general, _ = run(capsys, "--help")
    _, of_demo, _ = run(capsys, "demo", "--help")

    examples = [
        line.split(maxsplit=1)[1]
        for line in (general + of_demo).splitlines()
        if line.startswith("  grading demo ")
    ]
    assert code == 0
    assert len(examples) == 4
    for example in examples:
        commands().parse_args(shlex.split(example), exit_on_error=False, print_error=False)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("demo", "--nope"), "Unknown option: --nope.\nTry: grading demo --help"),
        (("dema",), "Try: grading --help"),
    ],
)
def test_invalid_usage_names_the_help_and_exits_with_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], error: str
) -> None:
    code, out, err = run(capsys, *arguments)

    assert (code, out) == (2, "")
    assert error in err
