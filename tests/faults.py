"""Targets that break their promises, for the test of the driver that is to notice."""

import os
import signal

from fuzz.mutate import of_random
from fuzz.target import Target, hold


def check_faulty(data):
    match data[0] % 64:
        case 1:
            raise ValueError("one")
        case 2:
            hold(False, "no two", data)
        case 3:
            bytearray(8 << 30)
        case 4:
            os.kill(os.getpid(), signal.SIGSEGV)


TARGETS = (Target("faults:faulty", "nothing", check_faulty, of_random(1, 1), 1),)
