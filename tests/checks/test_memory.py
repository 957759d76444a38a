"""Main memory according to the kernel and to control groups of both versions."""

from pathlib import Path

import pytest

from furnace.checks.memory import main_memory

GIB = 2**30


def group(mount: Path, name: str, value: str) -> None:
    (mount / name).parent.mkdir(parents=True, exist_ok=True)
    (mount / name).write_text(f"{value}\n")


def test_without_groups_memory_is_that_of_the_kernel(tmp_path):
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert main_memory(tmp_path, tmp_path / "none") == pytest.approx(int(line.split()[1]) * 1024, rel=0.01)
    assert main_memory() <= main_memory(tmp_path, tmp_path / "none")


@pytest.mark.parametrize(
    ("line", "limits", "expected"),
    [
        ("0::/job/step", {"job/step/memory.max": str(GIB // 4), "job/memory.max": str(GIB)}, GIB // 4),
        ("0::/job/step", {"job/step/memory.max": "max", "job/memory.max": str(GIB // 2)}, GIB // 2),
        ("0::/of/the/host", {"memory.max": str(GIB // 8)}, GIB // 8),  # a container sees its own group as the root
        ("4:memory:/job", {"memory/job/memory.limit_in_bytes": str(GIB // 4)}, GIB // 4),
        ("4:cpu,memory:/job", {"memory/memory.limit_in_bytes": str(GIB // 2)}, GIB // 2),
        ("3:cpuset:/job", {"memory/job/memory.limit_in_bytes": str(GIB // 4)}, None),
        ("4:memory:/job", {"memory/job/memory.limit_in_bytes": "9223372036854771712"}, None),  # no limit
        ("0::/job", {"job/memory.max": "max"}, None),
    ],
)
def test_the_smallest_limit_counts(tmp_path, line, limits, expected):
    (tmp_path / "membership").write_text(f"9:name=systemd:/\n{line}\n")
    for name, value in limits.items():
        group(tmp_path / "mount", name, value)
    found = main_memory(tmp_path / "mount", tmp_path / "membership")
    assert found == (expected or main_memory(tmp_path / "nothing", tmp_path / "none"))
