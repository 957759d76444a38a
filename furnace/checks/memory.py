"""Main memory that a process may use: that of the machine, or the lower limit of its container or job."""

import os
from collections.abc import Iterator
from pathlib import Path

MOUNT, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
LIMIT_FILES = {"": "memory.max", "memory": "memory.limit_in_bytes"}  # by controller: cgroup v2, cgroup v1


def main_memory(mount: Path = MOUNT, membership: Path = MEMBERSHIP) -> int:
    """Bytes of main memory that this process may use."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *cgroup_limits(mount, membership)])


def cgroup_limits(mount: Path, membership: Path) -> Iterator[int]:
    """Limits in bytes of the process's control groups and all their parents; any may be the lowest.

    Args:
        mount: folder where the groups are mounted; in a container often only its own group.
        membership: lines "number:controllers:path".
    """
    lines = membership.read_text(encoding="utf-8").splitlines() if membership.is_file() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        for controller in controllers.split(","):
            if controller in LIMIT_FILES:
                root = mount / controller
                group = root / path.strip("/")
                folders = [group, *(folder for folder in group.parents if folder.is_relative_to(root))]
                yield from (limit for folder in folders if (limit := read_limit(folder / LIMIT_FILES[controller])))


def read_limit(file: Path) -> int | None:
    """The number of bytes in a file; None if the file contains "max" or is missing."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
