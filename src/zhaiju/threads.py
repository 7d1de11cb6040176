"""How many CPU threads this process should use, set once and for every library alike.

Left to themselves, libraries count the machine's logical CPUs, each for itself: in a container with a share of them, or
beside another program, their threads then wait for each other. What is counted here are the physical cores that this
process may use.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

CPUS = Path("/sys/devices/system/cpu")
GROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Physical cores that this process may use: of those it is bound to, no more than its share of time; at least 1."""
    try:
        logical = os.sched_getaffinity(0)
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1
    cores = {_siblings(number) for number in logical}
    quota = _quota()
    return max(1, len(cores) if quota is None else min(len(cores), math.ceil(quota)))


def _siblings(number: int) -> str:
    """The logical CPUs of one's core, as the kernel writes them."""
    try:
        return (CPUS / f"cpu{number}" / "topology" / "thread_siblings_list").read_text("ascii").strip()
    except OSError:
        return str(number)


def _quota() -> float | None:
    """CPUs' worth of time that the process's control group and those above it leave; None without a limit."""
    limits = []
    for group in _groups():
        try:
            most, period = (group / "cpu.max").read_text("ascii").split()
        except (OSError, ValueError):
            try:  # control groups of the first version
                most = (group / "cpu.cfs_quota_us").read_text("ascii").strip()
                period = (group / "cpu.cfs_period_us").read_text("ascii").strip()
            except OSError:
                continue
        if most not in ("max", "-1"):
            limits.append(int(most) / int(period))
    return min(limits, default=None)


def _groups() -> list[Path]:
    found = [GROUPS, GROUPS / "cpu"]
    try:
        lines = OWN_GROUP.read_text("utf-8").splitlines()
    except OSError:
        return found
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = GROUPS / "cpu" if controllers else GROUPS
        for part in Path(name).parts[1:]:
            group /= part
            found.append(group)
    return found


def prepare() -> None:
    """Tell libraries that are yet to be loaded; what the environment says already stays.

    Tokenizers of one thread, so that the engine's tokenising thread beside the forward passes is one thread. Threads
    that sleep while they wait: spinning ones are many times slower as soon as another program wants a core too.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))


def settle(threads: int = 0) -> int:
    """Set the threads of PyTorch, here and nowhere else.

    Args:
        threads: How many; 0: OMP_NUM_THREADS if it is set, else a thread for each core that may be used.

    Returns:
        How many there are now.
    """
    import torch

    prepare()
    wanted = threads or wanted_threads()
    if torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)
    return wanted


def share(ways: int) -> None:
    """Leave each of several that compute side by side its share of the threads; before torch is imported."""
    os.environ["OMP_NUM_THREADS"] = str(max(1, wanted_threads() // ways))


def wanted_threads() -> int:
    """OMP_NUM_THREADS if it names a number, else the cores that may be used."""
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(given) if given.isdecimal() and int(given) else usable_cores()
