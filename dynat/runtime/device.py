"""The device that a job computes on, and its number of threads."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

import torch

from dynat.runtime import gpu_locks
from dynat.runtime.errors import UserError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from malloc.h
CPU_INFO = Path("/proc/cpuinfo")  # Linux


def choose_device(name: str) -> torch.device:
    """`auto` is a GPU, preferably a free one, if there is one, otherwise the CPU; a missing device is an error."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device: torch.device | None = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"unknown device '{name}': auto, cpu, cuda or cuda:1")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda' was requested, but torch sees no GPU here: use --device auto or cpu")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise UserError(f"device '{name}' was requested, but torch sees {count}: cuda:0 to cuda:{count - 1}")
    if device.type == "cuda" and "LOCAL_RANK" not in os.environ:  # one of several has the GPU of its number
        if ":" in name:
            gpu_locks.lock_gpu(device.index)
        else:
            device = torch.device("cuda", gpu_locks.choose_gpus()[0])
        torch.cuda.set_device(device)  # streams and graphs are created on the current device
    return device


def describe(device: torch.device) -> str:
    """The GPU, or the processor, how much of it is used, and its instructions: they decide how sums are rounded."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    used = f"{threads} {'thread' if threads == 1 else 'threads'} used"
    return f"{_processor()} ({', '.join(_instructions())}), {os.cpu_count()} cores, {used}"


def _processor() -> str:
    """Its name on Linux, its architecture elsewhere."""
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.machine()


def _instructions() -> list[str]:
    """The sets of vector and matrix instructions that torch uses here."""
    sets = [torch.backends.cpu.get_cpu_capability()]
    if torch.cpu._is_avx512_bf16_supported():
        sets.append("AVX512-BF16")
    if torch.cpu._is_amx_tile_supported():
        sets.append("AMX")
    return sets


def set_up_cpu(threads: int | None) -> None:
    """Set torch's number of threads, and keep the memory of freed tensors for the next ones.

    By default glibc returns the memory to the system, which clears every page again before the next use: a tenth of a
    training step of WRN-10-1. Tensors of 16 MB and more are still returned: kept, they would leave unusable gaps.
    (The DAG also lets waiting threads sleep: OMP_WAIT_POLICY, read by torch.)
    """
    if threads is not None:
        torch.set_num_threads(threads)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**24)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
