import io
import sys
from pathlib import Path

import pytest

from buckets import bucket, own_server, server  # noqa: F401  # fixtures


@pytest.fixture(scope="session")
def shared():
    """The folder of real data beside the repository; tests that need it are skipped where it is not."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data")
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """OpenVINO computes in bf16 where the processor does; elsewhere what tests it is skipped, and says so."""
    try:
        return (yield)
    except Exception as error:
        if "processor does not compute in bf16" in str(error):
            pytest.skip("this processor does not compute in bf16")
        raise


@pytest.fixture(scope="module")
def one_thread():
    """Models as small as the tests' are slower on several."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(capfd, monkeypatch):
    """Run the command line in this process: exit code, stdout, stderr."""
    from zhaiju import cli

    def call(*arguments, stdin=None):
        given = io.TextIOWrapper(io.BytesIO((stdin or "").encode("utf-8", "surrogateescape")), "utf-8")
        monkeypatch.setattr(sys, "stdin", given)
        monkeypatch.setattr(sys, "argv", ["zhaiju", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capfd.readouterr()
        return stopped.value.code, out, err

    return call
