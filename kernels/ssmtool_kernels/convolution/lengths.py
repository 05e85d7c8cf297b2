"""Sizes that FFT libraries are fast at."""

from __future__ import annotations


def fast_length(least: int) -> int:
    """The smallest 2^i 3^j 5^k that is at least `least`."""
    best = 1 << max(least - 1, 0).bit_length()
    five = 1
    while five < best:
        size = five
        while size < best:
            best = min(best, size << max(-(-least // size) - 1, 0).bit_length())
            size *= 3
        five *= 5
    return best
