"""Profiles from elsewhere: what a file must hold before it may stand among a team's own."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from aicalib.errors import InvalidValue
from aicalib.profiles.profile import Profile

SHIPPED = ("default", "priors")
"""Names that always mean what is shipped."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_name(name: str) -> None:
    """Refuse a name that a profile cannot be found by.

    Raises
    ------
    InvalidValue
        If it is that of a shipped profile, or has other signs than letters, digits, '.', '_' and '-'.
    """
    if name in SHIPPED:
        raise InvalidValue(
            f"'{name}' always means the shipped profile; give yours another name", ["--name team"]
        )
    if not _NAME.fullmatch(name):
        raise InvalidValue(
            f"a profile's name has letters, digits, '.', '_' and '-' only, not '{name}'", ["--name team"]
        )


def read_profile(path: Path, name: str | None = None) -> Profile:
    """Read a profile file and check that its figures can be.

    Parameters
    ----------
    path : Path
    name : str, optional
        Name that it takes; its own if not given.

    Raises
    ------
    InvalidValue
        If the file is no profile, is of another schema or physics, holds figures that cannot be, or has a name
        that is shipped or that no command can name.
    """
    profile = Profile.from_json(path.read_text(encoding="utf-8", errors="replace"), str(path))
    if name is not None:
        profile = replace(profile, name=name)
    check_name(profile.name)
    if not _NAME.fullmatch(profile.version):
        raise InvalidValue(
            f"{path}: a version has letters, digits, '.', '_' and '-' only, not '{profile.version}'"
        )
    return profile
