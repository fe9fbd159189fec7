"""docs/dota_round.md: its Python code prints what the page shows below it."""

import doctest

from documented import ROOT


def test_worked_numbers_are_correct():
    failed, tried = doctest.testfile(str(ROOT / "docs/dota_round.md"), module_relative=False, encoding="utf-8")
    assert tried > 15
    assert not failed
