"""How wide tables are: a file or a pipe gets long lines, so that names stay whole."""

import pytest

from furnace.utils.terminal import WIDTH_WITHOUT_TERMINAL, open_console


@pytest.mark.parametrize(("columns", "width"), [(None, WIDTH_WITHOUT_TERMINAL), ("90", 90)])
def test_a_pipe_gets_long_lines_unless_told_otherwise(columns, width, monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS")
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    open_console().rule()
    assert len(capsys.readouterr().out.rstrip("\n")) == width
