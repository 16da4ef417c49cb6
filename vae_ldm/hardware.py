"""Chooses what is fastest on this machine: threads, precision, memory format and the allocator."""

import ctypes
import os
import platform
from typing import Any

import psutil
import torch

from vae_ldm.choices import Network, Precision


def prepare_cpu() -> None:
    """Use the cores this process may run on, and keep glibc from handing large activations back at every step.

    glibc returns each block above 32 MB to the system when it is freed and pages it in again at the next step: 40 % of
    the CPU time of an autoencoder's step at batch 64, measured. Linux with glibc only; call it before the first large
    tensor.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(_own_cores()))
    if platform.libc_ver()[0] == "glibc" and not torch.cuda.is_available():
        mmap_max, trim_threshold, top_pad = -4, -1, -2
        libc = ctypes.CDLL(None)
        for option, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 64 * 2**20)):
            libc.mallopt(option, value)


def num_free_cores(seconds: float = 0.3) -> int:
    """How many of the cores that this process may run on have been idle for most of the last `seconds`; at least one.

    A thread that waits for another spins. Where both share a core, each waits for the other: beside two busy processes
    a step on two threads took over ten times as long as on one (benchmarks/threads.py).
    """
    busy = psutil.cpu_percent(interval=seconds, percpu=True)
    cores = [core for core in _own_cores() if core < len(busy)]
    return max(1, sum(busy[core] < 50 for core in cores))


def _own_cores() -> list[int]:
    """The numbers of the cores that this process may run on; where the system does not say, those of all."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def fastest_precision(network: Network) -> Precision:
    """The precision that was measured to be fastest for the network on this kind of device.

    On AMD's CPUs with bfloat16 instructions autocast speeds the autoencoder by 1.25 and leaves the UNet where it was.
    On Intel's with the same instructions, but without AMX, it costs both a third (docs/performance.md).
    """
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    # Some supported versions of torch do not have it; then nothing is known of the CPU.
    cpu: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if network == "autoencoder" and cpu.get("avx512_bf16") and "AMD" in str(cpu.get("cpu_name")):
        return "bf16-mixed"
    return "32-true"


def memory_in_use() -> int:
    """The most bytes that tensors have taken on the GPU so far; without a GPU, the bytes that this process occupies."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return psutil.Process().memory_info().rss


def free_memory() -> int:
    """The bytes of main memory that this machine can give without swapping."""
    return psutil.virtual_memory().available


def device_name(device: torch.device) -> str:
    """The name that a page gives the device of its measurements."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    num_threads = torch.get_num_threads()
    return f"CPU, {num_threads} thread{'' if num_threads == 1 else 's'}"
