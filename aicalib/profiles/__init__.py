"""Coefficients of the physics and the profiles that hold fitted values of them."""

from aicalib.profiles.coefficients import Coefficient, all_coefficients, priors
from aicalib.profiles.profile import Profile, default_profile, load_profile, uncalibrated

__all__ = [
    "Coefficient",
    "Profile",
    "all_coefficients",
    "default_profile",
    "load_profile",
    "priors",
    "uncalibrated",
]
