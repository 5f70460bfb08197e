"""The rows of all examples of an audit, small in memory."""

from __future__ import annotations

import json
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, overload

Row = dict[str, Any]


class Rows(Sequence[Row]):
    """A sequence of rows, kept as compressed JSON: a block for each batch, read when asked for.

    A row of dictionaries takes about twenty times as much.

    Example:
        >>> from captum_robust.audit.rows import Rows
        >>> rows = Rows()
        >>> rows.add([{"index": 0}, {"index": 1}])
        >>> rows.add([{"index": 2}])
        >>> len(rows), rows[-1]
        (3, {'index': 2})
    """

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._ends = [0]

    def add(self, rows: Sequence[Row]) -> None:
        """Append the rows of a batch."""
        self._blocks.append(zlib.compress(json.dumps(rows).encode()))
        self._ends.append(self._ends[-1] + len(rows))

    def __len__(self) -> int:
        return self._ends[-1]

    def __iter__(self) -> Iterator[Row]:
        for number in range(len(self._blocks)):
            yield from self._block(number)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        number = bisect_right(self._ends, place) - 1
        return self._block(number)[place - self._ends[number]]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(other) != len(self):
            return NotImplemented if not isinstance(other, Sequence) else False
        return all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def _block(self, number: int) -> list[Row]:
        return json.loads(zlib.decompress(self._blocks[number]))
