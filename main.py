"""The commands of four older projects, run by selfsight: `python main.py --help`. It translates, and nothing else."""

import sys

from selfsight.references import main

if __name__ == "__main__":
    sys.exit(main())
