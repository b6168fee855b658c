"""The console script, also as `python -m entitlements`."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from entitlements.service.program import ServiceProgram


def main() -> None:
    """Run the command line, importing only the modules that the command needs."""
    try:
        from entitlements.transports.cli.app import run
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("entitlements"):
            raise
        sys.exit(
            "entitlements: the command line needs the extra `server` of this package, "
            f"which is not installed (no module {error.name})"
        )
    run(_program)


def _program() -> "ServiceProgram":
    from entitlements.service.program import ServiceProgram

    return ServiceProgram()


if __name__ == "__main__":
    main()
