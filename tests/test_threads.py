import os

import pytest
import torch

from zhaiju import threads


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Four logical CPUs on two cores, no limit; files of the kernel in a folder."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    for name in ("CPUS", "GROUPS", "OWN_GROUP"):
        monkeypatch.setattr(threads, name, tmp_path / name)
    for number in range(4):
        topology = tmp_path / "CPUS" / f"cpu{number}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{number % 2},{number % 2 + 2}\n")
    (tmp_path / "GROUPS" / "cpu").mkdir(parents=True)
    return tmp_path


def test_cores_are_counted_and_not_their_hardware_threads(machine, monkeypatch):
    assert threads.usable_cores() == 2
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 3})
    assert threads.usable_cores() == 1


def test_without_topology_each_cpu_is_a_core(machine, monkeypatch):
    monkeypatch.setattr(threads, "CPUS", machine / "nowhere")
    assert threads.usable_cores() == 4


@pytest.mark.parametrize(
    ("limit", "cores"), [("100000 100000", 1), ("110000 100000", 2), ("max 100000", 2), ("10 100", 1)]
)
def test_a_share_of_time_limits_them(machine, limit, cores):
    (machine / "GROUPS" / "cpu.max").write_text(f"{limit}\n")
    assert threads.usable_cores() == cores


def test_the_limit_of_ones_own_group_and_of_those_above_counts(machine):
    (machine / "OWN_GROUP").write_text("0::/pod/job\n")
    inner = machine / "GROUPS" / "pod" / "job"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000\n")
    assert threads.usable_cores() == 2
    (inner.parent / "cpu.max").write_text("50000 100000\n")
    assert threads.usable_cores() == 1


def test_the_first_version_of_control_groups_counts(machine):
    (machine / "OWN_GROUP").write_text("3:cpu,cpuacct:/job\n2:memory:/other\n")
    group = machine / "GROUPS" / "cpu" / "job"
    group.mkdir()
    (group / "cpu.cfs_quota_us").write_text("-1\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")
    assert threads.usable_cores() == 2
    (group / "cpu.cfs_quota_us").write_text("90000\n")
    assert threads.usable_cores() == 1


def test_what_the_environment_says_stays(machine, monkeypatch):
    for name in ("TOKENIZERS_PARALLELISM", "OMP_WAIT_POLICY", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "of mine")
    threads.prepare()
    assert os.environ["OMP_NUM_THREADS"] == os.environ["OMP_WAIT_POLICY"] == "of mine"
    assert threads.wanted_threads() == 2
    monkeypatch.delenv("OMP_NUM_THREADS")
    threads.prepare()
    assert os.environ["OMP_NUM_THREADS"] == "2"


def test_threads_are_set_as_wished(machine, monkeypatch):
    before = torch.get_num_threads()
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "3,1")
        assert threads.settle() == torch.get_num_threads() == 3
        assert threads.settle(1) == torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_this_machine_has_a_core():
    assert 1 <= threads.usable_cores() <= (os.cpu_count() or 1)
