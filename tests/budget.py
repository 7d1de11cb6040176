"""How many examples a property test takes: a few in CI, ZHAIJU_EXAMPLES times as many in `make campaign`."""

import os


def examples(count):
    return count * int(os.environ.get("ZHAIJU_EXAMPLES", "1"))
