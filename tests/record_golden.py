"""Record the golden losses anew: python tests/record_golden.py [METHOD ...]. Say in the changelog why they changed."""

import json
import sys
from pathlib import Path

import torch

from selfsight.methods import METHODS
from tiny import golden_losses

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(__file__).parent / "golden"
    folder.mkdir(exist_ok=True)
    for name in sys.argv[1:] or METHODS:
        values = [round(v, 6) for v in golden_losses(name)]
        (folder / f"{name}-tiny.json").write_text(json.dumps(values) + "\n")
        print(name, values)
