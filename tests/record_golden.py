"""Record the golden losses anew: python tests/record_golden.py [METHOD ...]. Say in the changelog why they changed."""

import json
import sys
from pathlib import Path

import torch

from selfsight.methods import METHODS
from tiny import losses, make_double, tiny

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(__file__).parent / "golden"
    folder.mkdir(exist_ok=True)
    for name in sys.argv[1:] or METHODS:
        run, data = tiny(name)
        values = [round(v, 6) for v in losses(run, make_double(run, data), 0, 10)]
        (folder / f"{name}-tiny.json").write_text(json.dumps(values) + "\n")
        print(name, values)
