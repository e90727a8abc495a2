"""`python -m selfsight`."""

from selfsight.cli import main

main()
