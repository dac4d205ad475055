from __future__ import annotations

import pytest

from system.console import format_table, print_error, print_heading, print_line, print_warning


def test_a_table_has_its_first_column_to_the_left_and_the_others_to_the_right():
    assert format_table(
        ["score", "test", "n"], [["MAE", "0.5432", 4659], ["Acc-2 (neg/pos)", 1, 2]]
    ) == (
        "score              test     n\n"
        "---------------  ------  ----\n"
        "MAE              0.5432  4659\n"
        "Acc-2 (neg/pos)       1     2"
    )


def test_names_of_a_strangers_file_do_not_control_the_terminal(capsys):
    name = "a\x1b]0;title\x07\nb"
    print_heading(f"\n{name}")
    print_line(f"note: {name}")
    print_line(format_table([name], [[name]]))
    printed = capsys.readouterr().out
    assert "\x1b]" not in printed
    assert "\x07" not in printed
    assert "note: a\\x1b]0;title\\x07\nb\n" in printed
    assert printed.endswith(f"a\\x1b]0;title\\x07\\nb\n{'-' * 20}\na\\x1b]0;title\\x07\\nb\n")


@pytest.mark.parametrize("print_message", [print_error, print_warning])
def test_a_message_that_quotes_megabytes_keeps_its_beginning_and_its_end(capsys, print_message):
    print_message(f"folds.json: video {'x' * 10**6} is in both; remove one.")
    printed = capsys.readouterr().err
    assert " folds.json: video xxx" in printed
    assert printed.endswith("xxx is in both; remove one.\n")
    assert len(printed) < 3100


def test_a_table_without_rows_is_its_header():
    assert format_table(["a", "bc"], []) == "a  bc\n-  --"
