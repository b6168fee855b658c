"""The console script, also as `python -m entitlements`."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from entitlements.main import Program


def main() -> None:
    """Run the command of the arguments, with no more imports than it needs."""
    try:
        from entitlements.transports.cli.app import run
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("entitlements"):
            raise
        sys.exit(
            f"entitlements: the command line needs the extra `server` (no module {error.name}); "
            "install entitlements[server] from where entitlements was installed"
        )
    run(_program)


def _program() -> "Program":
    from entitlements.main import Program

    return Program()


if __name__ == "__main__":
    main()
