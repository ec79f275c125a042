"""From operator timings to the compact efficiency surfaces of `aicalib.profiles` (`make kernel-fit`).

A family of kernels is a module with `TABLES`, listed in `families.FAMILIES`.
"""
