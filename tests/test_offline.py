"""T20: nothing optional is imported at start-up, and nothing asks the network."""

import subprocess
import sys

OPTIONAL = (
    "wandb",
    "mlflow",
    "tensorboard",
    "umap",
    "faiss",
    "webdataset",
    "onnx",
    "transformers",
    "lightning",
    "pandas",
    "pyarrow",
    "h5py",
)

BLOCK = f"""
import socket, sys

class Without:  # finds everything but these, as if they were not installed
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, *rest):
        return None if name.split(".")[0] in {OPTIONAL!r} else self.finder.find_spec(name, *rest)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
real = socket.socket.connect
def connect(self, address):
    raise AssertionError(f"the program asked the network: {{address}}")
socket.socket.connect = connect
"""


def run(code, cwd):
    return subprocess.run([sys.executable, "-c", BLOCK + code], cwd=cwd, capture_output=True, text=True, timeout=300)


def test_a_whole_run_without_optional_packages_and_network(tmp_path):
    code = """
from selfsight.cli import run
assert run("pretrain simclr --recipe tiny --steps 3 --out r --quiet --json".split()) == 0
assert run("evaluate r --protocols knn,ridge".split()) == 0
assert run("embed r --data shapes:16:40 --out f.npz".split()) == 0
assert run("report r --out p.html".split()) == 0
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "p.html").is_file()


def test_import_is_light(tmp_path):
    code = """
import selfsight, selfsight.cli
heavy = {"torch", "numpy", "timm", "sklearn", "matplotlib", "plotly"} & set(sys.modules)
assert not heavy, heavy
assert selfsight.cli.run(["--help"]) == 0
assert not {"torch", "numpy"} & set(sys.modules)
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
