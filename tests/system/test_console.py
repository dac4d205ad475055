from __future__ import annotations

from system.console import format_table


def test_a_table_has_its_first_column_to_the_left_and_the_others_to_the_right():
    assert format_table(
        ["score", "test", "n"], [["MAE", "0.5432", 4659], ["Acc-2 (neg/pos)", 1, 2]]
    ) == (
        "score              test     n\n"
        "---------------  ------  ----\n"
        "MAE              0.5432  4659\n"
        "Acc-2 (neg/pos)       1     2"
    )


def test_a_table_without_rows_is_its_header():
    assert format_table(["a", "bc"], []) == "a  bc\n-  --"
