"""`python -m zhaiju`, for launchers that start modules, and the command `zhaiju`."""

import signal


def main() -> None:
    """Run the command line; Ctrl-C ends it without a traceback even before that is there to answer it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from zhaiju.cli import main as run

    run()


if __name__ == "__main__":
    main()
