"""`python -m tinydiff` is the `tinydiff` command."""

from .cli import main

main()
