"""How long work shows itself: a bar in a terminal, plain lines in a log; and where it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import torch
from tqdm import tqdm

from dynat.jobs import gpus


def track(steps: Iterator[Any], total: int, title: str) -> Iterator[Any]:
    """`steps` with a bar while a person watches; untouched where nobody does."""
    if not sys.stderr.isatty():
        return steps
    return iter(tqdm(steps, total=total, desc=title, leave=False, unit="step"))


def choose_device(name: str) -> torch.device:
    """`auto` is a GPU that is free, where there is one; a device that is not there is an error, not a surprise."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device: torch.device | None = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"unknown device '{name}': auto, cpu, cuda or cuda:1")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but torch sees no GPU here: use --device auto or cpu")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise ValueError(f"device '{name}' was asked for, but torch sees {count}: cuda:0 to cuda:{count - 1}")
    if device.type == "cuda" and "LOCAL_RANK" not in os.environ:  # torchrun's processes get theirs from its number
        if ":" in name:
            gpus.hold(device.index)
        else:
            device = torch.device("cuda", gpus.take()[0])
        torch.cuda.set_device(device)  # streams and graphs are made on the current one
    return device


def use_threads(count: int | None) -> None:
    """Threads of torch. (The DAG also has waiting ones sleep: OMP_WAIT_POLICY, read before torch is loaded.)"""
    if count is not None:
        torch.set_num_threads(count)
