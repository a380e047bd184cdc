"""`python -m console`: the same as `mediamill`."""

from console.cli import main

main()
