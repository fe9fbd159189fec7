"""Limits of fuzz tests: an example that takes too much time or memory fails."""

import resource
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limits import GIB, limited
from mutations import fuzzing

MEGABYTE = 2**20


def test_long_block_fails():
    with pytest.raises(pytest.fail.Exception, match="took more than 0.1 seconds"), limited(seconds=0.1):
        while True:
            time.sleep(0.01)


def test_error_handlers_do_not_hide_the_limit():
    def wait():
        try:
            time.sleep(5)
        except Exception:
            return

    with pytest.raises(pytest.fail.Exception, match="took more than"), limited(seconds=0.1):
        wait()


def test_freed_memory_counts():
    with pytest.raises(pytest.fail.Exception, match=r"used 0.\d+ GiB, more than 0.05"), limited(memory_bytes=GIB // 20):
        assert len(b"x" * (100 * MEGABYTE)) == 100 * MEGABYTE
    with limited(memory_bytes=GIB // 20):
        assert len(b"x" * (10 * MEGABYTE)) == 10 * MEGABYTE


def test_excessive_allocation_raises():
    allowed = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(MemoryError), limited(memory_bytes=100 * MEGABYTE):
        bytes(2000 * MEGABYTE)
    assert resource.getrlimit(resource.RLIMIT_AS) == allowed


def test_fuzz_test_has_limits():
    @given(st.booleans())
    @fuzzing(2)
    def check(_):
        assert len(b"x" * (1100 * MEGABYTE))

    with pytest.raises(pytest.fail.Exception, match="GiB, more than 1.00"):
        check()
