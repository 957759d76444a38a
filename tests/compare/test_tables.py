"""Cells, notes and pages of a comparison."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from furnace.compare import tables as module
from furnace.compare.scores import Row
from furnace.compare.tables import (
    NOTE,
    cells_of,
    markdown_table,
    seeds_note,
    tables,
    to_csv,
    to_html,
    to_markdown,
    write_files,
)
from tests.browser import Page, opened, overflow, screenshot

SINGLE = Row("last", "miou", "cpcl:a=1", 8, 45, (3,), 0.5, None, None, None, None, 61.0, None)
TRIAL = {
    "method": "<a>&",
    "ratio": 8,
    "seed": 3,
    "folder": "<a>&_1-8_seed-3",
    "attempts": [{"command": ["train.py", "-o", "lr=<1>"]}],
    "result": {"last": {"miou": 0.5, "acc": None}, "train_seconds": 60.0, "evaluate_seconds": 30.0},
}
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


def test_the_first_two_columns_are_left_aligned_and_the_others_right_aligned() -> None:
    assert markdown_table([("a", "bb", "c", "dd"), ("11", "2", "33", "4")]) == [
        "| a  | bb |  c | dd |",
        "| -- | -- | -: | -: |",
        "| 11 | 2  | 33 |  4 |",
    ]


@pytest.mark.parametrize(
    ("counts", "note"), [([], ""), ([5, 6], ""), ([6, 2], "With 2 seeds"), ([1, 5], "With 1 seed a difference")]
)
def test_the_note_gives_the_smallest_number_of_seeds(counts: list[int], note: str) -> None:
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


def test_the_page_has_facts_tables_notes_and_plot() -> None:
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


def test_all_files_are_written(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "plot", lambda title, rows, titles: f"{title} {len(rows)} {list(titles)}".encode())
    write_files(tmp_path, "Toy", [SINGLE], {"device": "cpu"}, [TRIAL], {"miou": "mIoU"})
    found = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))
    assert (found["title"], found["device"], found["trials"]) == ("Toy", "cpu", [TRIAL])
    assert found["rows"][0]["seeds"] == [3] and found["rows"][0]["method"] == "cpcl:a=1"
    assert (tmp_path / "comparison.csv").read_text() == to_csv([SINGLE])
    page = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert page == to_markdown("Toy", [SINGLE], {"device": "cpu"}, {"miou": "mIoU"})
    assert (tmp_path / "comparison.png").read_bytes() == b"Toy 1 ['miou']"
    page = Page((tmp_path / "comparison.html").read_text(encoding="utf-8"))
    assert page.tables["miou-last"][1] == list(cells_of(SINGLE)) and page.tables["facts"] == [["device", "cpu"]]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """The page of two methods, one of them with a run's report, and of names that look like HTML tags."""
    report = tmp_path / TRIAL["folder"] / "test" / "report.html"
    report.parent.mkdir(parents=True)
    report.touch()
    hostile = replace(PAIRED, method="<script>x</script>")
    better = replace(PAIRED, mean=0.75)
    rows, titles = [hostile, better, replace(better, which="best", metric="acc")], {"miou": "mIoU", "acc": "<i>"}
    facts = {"command": "compare <b>", "versions": "torch 2", "runs": "3 of 3 finished"}
    trials = [TRIAL, {**TRIAL, "folder": "other", "method": "cps"}]
    path = tmp_path / "comparison.html"
    path.write_bytes(to_html(tmp_path, "Toy <b>", rows, facts, trials, titles))
    return path


@pytest.mark.parametrize("browser", [False, True])
def test_the_page_for_a_browser(page: Path, browser: bool) -> None:
    text = page.read_text(encoding="utf-8")
    found = Page(opened(page)) if browser else Page(text)
    assert [row[1] for row in found.tables["miou-last"]] == ["method", "<script>x</script>", "cps"]
    assert [row[3] for row in found.tables["miou-last"]] == ["mIoU", "50.00", "75.00"]
    assert found.tables["acc-best"][1][3] == "75.00" and found.tables["acc-best"][0][3] == "<i>"
    assert "acc-last" not in found.tables
    assert text.count('class="number best"') == 2 and 'best">75.00' in text
    assert dict(found.tables["facts"])["command"] == "compare <b>"
    assert found.tables["runs"][1] == ["<a>&", "1/8", "3", "50.00", "-", "90 s", "report"]
    assert found.tables["runs"][2][-1] == "-"
    assert [address for address in found.addresses if address[0] != "#"] == ["%3Ca%3E%26_1-8_seed-3/test/report.html"]
    assert found.tags.count("svg") == 2 and "train.py -o lr=&lt;1&gt;" in text and "<b>" not in text


def test_the_page_fits_a_phone_in_light_and_dark(page: Path) -> None:
    assert overflow(page, 390) == 0
    assert screenshot(page)[0, 0].min() > 240 and screenshot(page, dark=True)[0, 0].max() < 40
