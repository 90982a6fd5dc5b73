"""The drafters' colours stay apart, also for eyes that lack one kind of cone, in both themes."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

STYLE = Path(__file__).resolve().parent.parent / "cluster" / "dashboard" / "style.css"
COLOURS = 12
APART = 11.0  # CIE76; 2.3 is just noticeable side by side
# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
EYES = {
    "all cones": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_WHITE = np.array([0.9505, 1.0, 1.089])


def palettes() -> dict[str, dict[str, str]]:
    """Hex colours by variable, by theme."""
    light, dark = STYLE.read_text().split('[data-theme="dark"]')
    return {
        theme: dict(re.findall(r"--(d-\w+|surface|text|muted): (#\w+);", text))
        for theme, text in (("light", light), ("dark", dark))
    }


def linear(colour: str) -> np.ndarray:
    """Linear RGB, [3]."""
    coded = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)


def lab(colour: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear RGB, [3]."""
    x = _XYZ @ np.clip(colour, 0, 1) / _WHITE
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_of_one_pattern_stay_apart(theme: str, eyes: str) -> None:
    """The second six are hatched, so only those of the same pattern need to."""
    colours = palettes()[theme]
    plain, hatched = ["d-plain", *(f"d-{n}" for n in range(6))], [f"d-{n}" for n in range(6, COLOURS)]
    for group in (plain, hatched):
        seen = {name: lab(EYES[eyes] @ linear(colours[name])) for name in group}
        for one, other in itertools.combinations(group, 2):
            assert np.linalg.norm(seen[one] - seen[other]) >= APART, (one, other)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_readable(theme: str) -> None:
    """WCAG 2.2's contrast for small text, on panels and on the tint that marks a picked token."""
    hexes = palettes()[theme]
    colours = {name: linear(value) for name, value in hexes.items()}
    picked = re.search(r"\.picked \.token {[^}]*var\(--c\) (\d+)%", (STYLE.parent / "playground.css").read_text())
    assert picked is not None
    share = int(picked[1]) / 100

    def luminance(colour: np.ndarray) -> float:
        return float(colour @ _XYZ[1])

    def contrast(one: np.ndarray, other: np.ndarray) -> float:
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    assert contrast(colours["text"], colours["surface"]) >= 7
    assert contrast(colours["muted"], colours["surface"]) >= 4.5
    for number in range(COLOURS):
        tint = "#"
        for at in (1, 3, 5):  # `color-mix(in srgb)` mixes the coded values
            own, under = int(hexes[f"d-{number}"][at : at + 2], 16), int(hexes["surface"][at : at + 2], 16)
            tint += f"{round(share * own + (1 - share) * under):02x}"
        assert contrast(colours["text"], linear(tint)) >= 4.5, number
