"""Programs that some tests meet for real, a browser, say. Where one is missing its tests are skipped, and say so; where
`PACELINE_REQUIRE_TOOLS` names it (`.ci/run` names those that it found) they fail, since a skip is easily overlooked."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

TOOLS = frozenset({"chromium", "curl", "prometheus", "three_hosts"})
VARIABLE = "PACELINE_REQUIRE_TOOLS"


def required() -> frozenset[str]:
    """The tools that have to be there.

    Raises:
        pytest.UsageError: a name is none of them.
    """
    named = frozenset(os.environ.get(VARIABLE, "").split())
    if named - TOOLS:
        raise pytest.UsageError(f"{VARIABLE}: {sorted(named - TOOLS)}; expected some of {sorted(TOOLS)}")
    return named


def without(tool: str, why: str) -> NoReturn:
    """Skip the calling test for want of a tool; fail it where the tool has to be there."""
    if tool in required():
        pytest.fail(f"{why}, and {VARIABLE} asks for {tool}", pytrace=False)
    pytest.skip(why)
