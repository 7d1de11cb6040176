"""`python -m zhaiju`, for launchers that start modules."""

from zhaiju.cli import main

if __name__ == "__main__":
    main()
