"""How numbers are said."""

import pytest

from hf_ltkd.cli.text import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(40, "40 s"), (89, "89 s"), (90, "2 min"), (720, "12 min"), (12_600, "3.5 h"), (103_680_000, "1,200 days")],
)
def test_duration_in_the_unit_one_would_say_it_in(seconds, text):
    assert duration(seconds) == text
