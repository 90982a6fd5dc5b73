"""Tests that lack a tool are skipped, and fail where it has to be there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from browser import chromium
from prometheus_server import require_binaries
from required_tools import VARIABLE, required


@pytest.mark.parametrize(("tool", "look"), [("chromium", chromium), ("prometheus", require_binaries)])
def test_a_missing_tool_is_overlooked_only_where_it_may_be_missing(
    tool: str, look: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for others in ("", " ".join({"chromium", "prometheus"} - {tool})):
        monkeypatch.setenv(VARIABLE, others)
        with pytest.raises(pytest.skip.Exception, match=r"is (not )?installed"):
            look()
    monkeypatch.setenv(VARIABLE, f"curl {tool}")
    with pytest.raises(pytest.fail.Exception, match=f"{VARIABLE} asks for {tool}"):
        look()


def test_a_name_that_no_test_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "chromium chrome")
    with pytest.raises(pytest.UsageError, match=r"\['chrome'\]; expected some of \['chromium'"):
        required()
