"""Random input for everything that reads what others made: `python -m fuzz --help`.

A *target* (see `fuzz.target`) takes bytes, gives them to a part of zhaiju, and raises whatever that part must not do.
Bytes are mutations of the files in `fuzz/corpus/TARGET`, or random where the target builds its input from them. They
are decided by seed, target and case number, so that a campaign can go on where it was killed.
"""
