import pytest

from captum_robust.audit.rows import Rows


def test_rows_come_back_in_order_from_any_block():
    values, rows = [{"index": i, "e": {"x": i / 3}} for i in range(7)], Rows()
    for start in (0, 3, 6):
        rows.add(values[start : start + 3])
    assert len(rows) == 7
    assert list(rows) == values == rows
    assert [rows[i] for i in range(-7, 7)] == values * 2
    assert rows[1:6:2] == values[1:6:2]
    assert rows != values[:6]
    assert rows != [{}] * 7
    assert rows != 7
    with pytest.raises(IndexError):
        rows[7]


def test_no_rows():
    assert list(Rows()) == []
    assert not Rows()
