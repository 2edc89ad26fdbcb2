"""`python -m quire` is the `quire` command."""

from .cli import main

main()
