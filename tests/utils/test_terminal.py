"""Width of tables: a file or a pipe gets long lines, so that names are not wrapped."""

import pytest

from furnace.utils.terminal import WIDTH_WITHOUT_TERMINAL, open_console


@pytest.mark.parametrize(("columns", "width"), [(None, WIDTH_WITHOUT_TERMINAL), ("90", 90)])
def test_a_pipe_gets_long_lines_unless_the_width_is_set(columns, width, monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS")
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    open_console().rule()
    assert len(capsys.readouterr().out.rstrip("\n")) == width
