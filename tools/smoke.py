"""Verify an environment in seconds: torch, the GPU if any, the compiler, the configuration.

docker run --rm --gpus all dynat python tools/smoke.py
"""

from __future__ import annotations

import shutil
import subprocess
import sys

import torch


def main() -> None:
    print(f"python {sys.version.split()[0]}, torch {torch.__version__}")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            print(f"cuda:{index} {torch.cuda.get_device_name(index)}")
    elif shutil.which("nvidia-smi"):
        sys.exit("nvidia-smi exists, but torch sees no GPU: is the host's driver older than the CUDA version of torch?")
    else:
        print("no GPU here (in a container: docker run --gpus all)")
    device = "cuda" if torch.cuda.is_available() else "cpu"

    numbers = torch.arange(8.0, device=device)
    compiled = torch.compile(lambda values: (values * 2 + 1).sin().sum())
    assert torch.allclose(compiled(numbers), (numbers * 2 + 1).sin().sum())
    print(f"torch.compile works on {device}")

    subprocess.run(["dynat", "check"], check=True, stdout=subprocess.DEVNULL)
    print("params.yaml and its preset are valid")


if __name__ == "__main__":
    main()
