"""The line that a failed command prints, and the order of several processes."""

import pytest

from furnace.utils import errors
from furnace.utils.errors import PeerEnded, UserError


def seconds_before(error: UserError, monkeypatch) -> float:
    """Seconds that `run` waits before it prints an error."""
    waited = []
    monkeypatch.setattr(errors.time, "sleep", waited.append)

    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        errors.run(fail)
    assert end.value.code == errors.USER_ERROR_STATUS
    return sum(waited)


def test_the_process_that_knows_the_cause_speaks_before_those_that_only_lost_it(monkeypatch, capsys) -> None:
    assert seconds_before(UserError("a.png: damaged"), monkeypatch) == 0
    first = seconds_before(PeerEnded("another process has ended"), monkeypatch)
    monkeypatch.setenv("RANK", "1")
    second = seconds_before(UserError("b.png: damaged"), monkeypatch)
    assert 0 < second < first == seconds_before(PeerEnded("another process has ended"), monkeypatch)
    assert "process 1: error: b.png: damaged" in capsys.readouterr().err


def test_ctrl_c_is_one_line(monkeypatch, capsys) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        errors.run(interrupted)
    assert end.value.code == 130 and capsys.readouterr().err == "stopped: by Ctrl-C\n"
