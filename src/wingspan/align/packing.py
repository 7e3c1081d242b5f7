"""Several conversations per sequence: best-fit decreasing, deterministic, nothing lost."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of item numbers whose lengths sum to at most `capacity`; each item lies in exactly one bin.

    Best-fit decreasing: longest first, each into the fullest bin that still holds it; at most 11/9 of the
    fewest possible bins plus one (Johnson 1974). O(n log capacity). Raises ValueError for an item that fits
    no bin.
    """
    bins: list[list[int]] = []
    open_bins: dict[int, list[int]] = {}  # room left -> bins with exactly that room
    rooms: list[int] = []  # the keys of open_bins, ascending
    for item in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        length = lengths[item]
        if not 0 < length <= capacity:
            raise ValueError(f"an item of length {length} does not fit a bin of {capacity}")
        position = bisect_left(rooms, length)
        if position == len(rooms):
            room, target = capacity, len(bins)
            bins.append([])
        else:
            room = rooms[position]
            target = open_bins[room].pop()
            if not open_bins[room]:
                del open_bins[room], rooms[position]
        bins[target].append(item)
        left = room - length
        if left not in open_bins:
            open_bins[left] = []
            insort(rooms, left)
        open_bins[left].append(target)
    return bins
