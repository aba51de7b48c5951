"""``python -m mudiff`` is the ``mudiff`` command."""

from mudiff.cli import main

main()
