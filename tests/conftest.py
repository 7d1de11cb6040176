from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared():
    """The folder of real data beside the repository; tests that need it are skipped where it is not."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data")
    return folder
