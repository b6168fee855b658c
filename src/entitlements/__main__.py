"""`python -m entitlements` is the console script."""

from entitlements.main import main

main()
