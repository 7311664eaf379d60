"""`python -m chestxray`, the same as `chestxray`."""

from chestxray.cli.main import main

main()
