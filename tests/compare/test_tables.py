"""Cells, notes and pages of a comparison."""

import json

import pytest

from furnace.compare import tables as module
from furnace.compare.scores import Row
from furnace.compare.tables import NOTE, cells_of, markdown_table, seeds_note, tables, to_csv, to_markdown, write_files

SINGLE = Row("last", "miou", "cpcl:a=1", 8, 45, (3,), 0.5, None, None, None, None, 61.0, None)
PAIRED = Row("last", "miou", "cps", 4, 90, (0, 1), 0.5, 0.125, 0.25, 0.0625, 0.125, 7200.0, 1.5)


def test_cells_of_one_seed_and_of_several() -> None:
    seconds, memory = cells_of(SINGLE)[8:]
    assert cells_of(SINGLE)[:8] == ("45 (1/8)", "cpcl:a=1", "3", "50.00", "-", "-", "-", "-")
    assert (seconds, memory) == ("61 s", "-")
    assert cells_of(PAIRED)[:8] == (
        *("90 (1/4)", "cps", "0, 1", "50.00", "12.50", "+25.00"),
        *("6.25", "+12.50 to +37.50"),
    )
    assert cells_of(PAIRED)[9] == "1.5 GiB"


def test_columns_of_a_table_are_aligned_two_to_the_left_and_the_rest_to_the_right() -> None:
    assert markdown_table([("a", "bb", "c", "dd"), ("11", "2", "33", "4")]) == [
        "| a  | bb |  c | dd |",
        "| -- | -- | -: | -: |",
        "| 11 | 2  | 33 |  4 |",
    ]


@pytest.mark.parametrize(
    ("counts", "note"), [([], ""), ([5, 6], ""), ([6, 2], "With 2 seeds"), ([1, 5], "With 1 seed a difference")]
)
def test_the_fewest_seeds_are_told(counts: list[int], note: str) -> None:
    text = seeds_note([Row(*[None] * 5, tuple(range(n)), *[None] * 7) for n in counts])
    assert text.startswith(note) and bool(text) == bool(note)


def test_each_metric_has_a_table_under_the_heading_of_its_epoch() -> None:
    best = Row("best", "acc", "cps", 4, 90, (0, 1), 0.75, 0.125, 0.25, 0.0625, 0.125, 7200.0, 1.5)
    text = tables([SINGLE, PAIRED, best], {"miou": "mIoU", "acc": "accuracy"})
    last, after = text.split("\n\n## Best epoch, chosen on the validation list\n\n")
    lines = last.splitlines()
    assert lines[:2] == ["## Last epoch", ""] and " mIoU |" in lines[2] and len(lines) == 6
    assert "accuracy" not in last and "mIoU" not in after
    table, note = after.split("\n\n")
    assert " accuracy |" in table and "75.00" in table and note.startswith("With 1 seed ")
    assert "Best" not in tables([SINGLE], {"miou": "mIoU"})


def test_the_page_tells_facts_tables_notes_and_plot() -> None:
    page = to_markdown("Toy", [SINGLE], {"command": "compare", "device": "cpu"}, {"miou": "mIoU", "acc": "accuracy"})
    head, facts, *_, note, plot = page.split("\n\n")
    assert (head, facts, note) == ("# Toy", "- command: compare\n- device: cpu", NOTE)
    assert plot == "![mIoU against labelled images](comparison.png)\n"
    assert " mIoU |" in page


def test_csv_has_a_line_for_each_row() -> None:
    lines = to_csv([SINGLE, PAIRED]).splitlines()
    assert lines[0].split(",") == list(Row.__dataclass_fields__)
    assert lines[1:] == [
        "last,miou,cpcl:a=1,8,45,3,0.5,,,,,61.0,",
        "last,miou,cps,4,90,0 1,0.5,0.125,0.25,0.0625,0.125,7200.0,1.5",
    ]


def test_all_four_files_are_written(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "plot", lambda title, rows, titles: f"{title} {len(rows)} {list(titles)}".encode())
    write_files(tmp_path, "Toy", [SINGLE], {"device": "cpu"}, [{"seed": 3}], {"miou": "mIoU"})
    found = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))
    assert (found["title"], found["device"], found["trials"]) == ("Toy", "cpu", [{"seed": 3}])
    assert found["rows"][0]["seeds"] == [3] and found["rows"][0]["method"] == "cpcl:a=1"
    assert (tmp_path / "comparison.csv").read_text() == to_csv([SINGLE])
    page = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert page == to_markdown("Toy", [SINGLE], {"device": "cpu"}, {"miou": "mIoU"})
    assert (tmp_path / "comparison.png").read_bytes() == b"Toy 1 ['miou']"
