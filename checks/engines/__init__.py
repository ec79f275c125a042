"""What the engines' own argument parsers accept, read from the source in their published wheels.

`python -m checks.engines.extract` writes `aicalib/engines/flags.csv` and `methods.csv`; `make check-engines` compares.
No engine is installed or imported.
"""
