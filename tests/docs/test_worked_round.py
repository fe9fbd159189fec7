"""docs/dota_round.md: its lines of Python give what stands below them."""

import doctest

from documented import ROOT


def test_the_worked_numbers_are_right():
    failed, tried = doctest.testfile(str(ROOT / "docs/dota_round.md"), module_relative=False, encoding="utf-8")
    assert tried > 15
    assert not failed
