"""The folders of a run of ``make gpu``, for its tests."""

import pytest

from sdn_triton.bench.gpu.files import Folders


@pytest.fixture
def folders(tmp_path) -> Folders:
    for name in ("out", "work", "first"):
        (tmp_path / name).mkdir()
    return Folders(tmp_path / "out", tmp_path / "work", tmp_path / "first")
