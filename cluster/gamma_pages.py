"""Gammas of the sequences that are kept to be explained: by position and drafter, in pages given out as needed.

Most sequences are short, and how long one becomes is not known, so none has room of its own size; all pages are one
array, and scores of many sequences are placed in it at once. `RequestLog` is the only caller.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from paceline.cluster.gamma_ring import wider
from paceline.cluster.score_table import Entries, Rows

PAGE = 32  # positions


class GammaPages:
    """Rows are sequences.

    Args:
        positions: Most that are kept of one, the first ones.
    """

    def __init__(self, positions: int) -> None:
        self._positions = positions
        self._pages = np.empty((0, PAGE, 0), dtype=np.float32)  # [pages, positions, drafters], NaN where none has come
        self._table: Rows = np.empty((0, 0), dtype=np.intp)  # [rows, pages of one], -1 where there is none
        self._free_pages: list[int] = []
        self._free_rows: list[int] = []

    def open(self) -> int:
        """A row for a new sequence."""
        if not self._free_rows:
            rows, pages = self._table.shape
            self._table = wider(self._table, (max(2 * rows, 8), pages), -1)
            self._free_rows = list(range(len(self._table) - 1, rows - 1, -1))
        return self._free_rows.pop()

    def close(self, row: int) -> None:
        """Forget a sequence."""
        held = self._table[row][self._table[row] >= 0]
        self._pages[held] = np.nan
        self._free_pages += held.tolist()
        self._table[row] = -1
        self._free_rows.append(row)

    def put(self, rows: Rows, columns: Rows, entries: Entries, gammas: npt.NDArray[np.float32]) -> None:
        """Note gammas; the newest of a position counts, and positions that are not kept are passed over.

        Args:
            rows: Of each score, [scores].
            columns: The drafters, [scores].
            entries: Which score and position, from the sequence's first, each gamma is of.
            gammas: [gammas].
        """
        kept = (entries.position >= 0) & (entries.position < self._positions)
        if not kept.all():
            entries, gammas = Entries(entries.score[kept], entries.position[kept]), gammas[kept]
        if not len(gammas):
            return
        number, place = np.divmod(entries.position, PAGE)
        rows = rows[entries.score]
        self._make_room(rows, number, int(columns.max()) + 1)
        page = self._table[rows, number]
        self._pages[page, place, columns[entries.score]] = gammas

    def read(self, row: int, first: int, last: int) -> npt.NDArray[np.float32]:
        """Gammas of positions `first` to `last`, [last - first, drafters], NaN where there are none."""
        found = np.full((max(last - first, 0), self._pages.shape[2]), np.nan, dtype=np.float32)
        number, place = np.divmod(np.arange(first, last), PAGE)
        known = (number >= 0) & (number < self._table.shape[1])
        known[known] = self._table[row, number[known]] >= 0
        found[known] = self._pages[self._table[row, number[known]], place[known]]
        return found

    def _make_room(self, rows: Rows, number: Rows, drafters: int) -> None:
        """Give each row the pages that it needs, and each drafter a column."""
        most = int(number.max()) + 1
        if most > self._table.shape[1]:
            self._table = wider(self._table, (len(self._table), max(most, 2 * self._table.shape[1])), -1)
        if drafters > self._pages.shape[2]:
            self._pages = wider(self._pages, (len(self._pages), PAGE, drafters), np.nan)
        missing = np.flatnonzero(self._table[rows, number] < 0)
        if not len(missing):
            return
        row, page = np.unique(np.stack([rows[missing], number[missing]]), axis=1)
        if len(self._free_pages) < len(row):
            before = len(self._pages)
            self._pages = wider(self._pages, (max(2 * before, before + len(row), 8), *self._pages.shape[1:]), np.nan)
            self._free_pages += range(len(self._pages) - 1, before - 1, -1)
        self._table[row, page] = [self._free_pages.pop() for _ in range(len(row))]
