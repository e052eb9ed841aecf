"""Launch scripts with stand-ins of the programs that they call."""

import pytest
from launchers import StandIns


@pytest.fixture
def stand_ins(tmp_path) -> StandIns:
    """Programs that write down how they were called, first on PATH."""
    return StandIns(tmp_path)
