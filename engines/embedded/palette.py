"""The named colours of everything but skin, hair and eyes. No torch here."""

from __future__ import annotations

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.88, 0.11, 0.13),
    "orange": (0.98, 0.53, 0.08),
    "yellow": (0.98, 0.87, 0.15),
    "green": (0.13, 0.62, 0.22),
    "cyan": (0.20, 0.82, 0.86),
    "blue": (0.13, 0.30, 0.85),
    "purple": (0.52, 0.18, 0.70),
    "pink": (0.98, 0.55, 0.75),
    "brown": (0.45, 0.26, 0.12),
    "white": (0.97, 0.97, 0.97),
    "gray": (0.52, 0.53, 0.55),
    "black": (0.05, 0.05, 0.06),
}
"""sRGB in 0..1; the renderer jitters them by about 0.03."""
