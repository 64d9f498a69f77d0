"""Samples and shares of tests, tried on a file of them."""

import pytest
from support import sampling

CASES = """
import pytest

@pytest.mark.sampled(2)
@pytest.mark.parametrize("case", [*range(5), pytest.param(5, marks=pytest.mark.long)])
def test_some(case): pass

def test_all(): pass
"""


@pytest.fixture
def items(tmp_path):
    """What pytest collects of the file."""
    file = tmp_path / "test_cases.py"
    file.write_text(CASES)
    found = []

    class Collected:
        def pytest_collection_modifyitems(self, items):
            found.extend(items)

    pytest.main([str(file), "--collect-only", "--noconftest", "--import-mode=importlib"], plugins=[Collected()])
    assert len(found) == 7
    return found


def test_a_sample_and_the_rest(items):
    sampling.mark_what_a_sample_leaves_out(items)
    short = [item.name for item in items if item.get_closest_marker("long") is None]
    assert len(short) == 2 + 1
    assert "test_all" in short
    assert "test_some[5]" not in short


def test_shares_are_all_without_overlap(items):
    shares = [sampling.share_of(items, f"{k}/2") for k in (1, 2)]
    assert all(shares)
    together = [item.name for share in shares for item in share]
    assert sorted(together) == sorted(item.name for item in items)


@pytest.mark.parametrize("share", ["0/3", "4/3", "1", "1/0", "a/b"])
def test_wrong_shares_say_so(share):
    with pytest.raises(pytest.UsageError, match="--share must be k/n"):
        sampling.share_of([], share)
