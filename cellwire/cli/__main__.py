"""`python -m cellwire.cli`: the command line without its installed script."""

from cellwire.cli import main

main()
