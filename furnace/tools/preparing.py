"""Make a data set's folder from its official archives: plan the files, make them, and print a summary."""

import os
import shutil
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from furnace import datasets
from furnace.datasets.archives import FolderSource, Source
from furnace.datasets.folders import walk
from furnace.datasets.protocols import (
    Layout,
    Partition,
    check_partition,
    find_partitions,
    recognize,
    shared_images,
    with_rests,
)
from furnace.datasets.splits import check_replaceable, read_lines, write_lists
from furnace.utils.arguments import Parser, user_path
from furnace.utils.background import ahead
from furnace.utils.errors import UserError
from furnace.utils.files import existing_part, link_atomically, write_atomically
from furnace.utils.places import data_root
from furnace.utils.progress import ProgressBar
from furnace.utils.terminal import Table, open_console
from furnace.utils.wording import byte_size


@dataclass(frozen=True)
class Task:
    """One file to make.

    Args:
        source, member: origin of the file's content.
        target: path of the file.
        convert: checks the member's content and returns the file's; its exceptions say why the member can't be used.
        verbatim: the file equals the member byte for byte and can be a link; else it is a PNG.
        colour: PNG colour type of the file, if there is a choice: an existing file of another type is replaced.
    """

    source: Source
    member: str
    target: Path
    convert: Callable[[bytes], bytes]
    verbatim: bool = True
    colour: int | None = None


@dataclass
class Plan:
    """Contents of a prepared data set; paths of folders and lists are relative to its folder.

    Args:
        tasks: files to make.
        lists: lines by path of the list.
        published: number of files by folder, and of lines by list, in the complete data set.
        known: the lists whose published content is in `PROTOCOLS`.
        warnings: messages for the user.
    """

    tasks: list[Task] = field(default_factory=list)
    lists: dict[str, list[str]] = field(default_factory=dict)
    published: dict[str, int] = field(default_factory=dict)
    known: tuple[str, ...] = ()
    warnings: list[str] = field(default_factory=list)


def preparing_parser(description: str, example: str, name: str) -> ArgumentParser:
    """Build a parser with the arguments of all preparing commands; `name` is the data set's folder in DATA."""
    parser = Parser(description=description, epilog=f"example:\n  {example}")
    parser.add_argument(
        "--target", type=user_path, default=data_root() / "DATA" / name, help="folder to make (default: %(default)s)"
    )
    parser.add_argument("--splits-from", type=user_path, metavar="FOLDER", help="folder of published lists to install")
    parser.add_argument("--link", action="store_true", help="link files of extracted folders instead of copying them")
    parser.add_argument("--dry-run", action="store_true", help="check and count, but write nothing")
    return parser


def make_tasks(
    source: Source,
    members: dict[str, str],
    names: Iterable[str],
    folder: Path,
    suffix: str,
    convert: Callable[[bytes], bytes],
    verbatim: bool = True,
    colour: int | None = None,
) -> list[Task]:
    """Tasks that make `folder`/NAME`suffix` from the member of each name. Raises UserError if members are missing."""
    names = list(names)
    if lacking := [name for name in names if name not in members]:
        raise UserError(
            f"{source.path}: lacks {len(lacking)} of the {len(names)} files for {folder}, such as that of "
            f"{lacking[0]}; incomplete or truncated: download it again"
        )
    return [Task(source, members[name], folder / f"{name}{suffix}", convert, verbatim, colour) for name in names]


def prepare(plan: Plan, layout: Layout, args: Namespace) -> None:
    """Make the files of a plan, install partitions and print a summary; `args` are those of `preparing_parser`.

    Complete files are kept, so an interrupted run can continue.

    Raises:
        UserError: there is nothing to do, a member or list can't be used, or a file can't be written.
    """
    if not (plan.tasks or args.splits_from):
        raise UserError(
            "nothing to do: name the archives, or --splits-from if the data are prepared already; see --help"
        )
    for warning in plan.warnings:
        Console(stderr=True, markup=False, soft_wrap=True).print(f"warning: {warning}", style="yellow")
    partitions = read_partitions(plan, layout, args) if args.splits_from else []
    lists = plan.lists | {partition.destination: partition.lines for partition in partitions}
    check_before(plan, partitions, lists, layout, args)
    pending = [task for task in plan.tasks if not is_complete(task)]
    if not args.dry_run:
        carry_out(pending, args.link)
        write_lists({args.target / name: lines for name, lines in lists.items()})
    print_summary(plan, partitions, len(pending), args)


def read_partitions(plan: Plan, layout: Layout, args: Namespace) -> list[Partition]:
    """The partitions of `--splits-from`; missing unlabelled lists are added if the layout has a list of all images."""
    partitions = find_partitions(args.splits_from, layout)
    if not layout.everything:
        return partitions
    everything = plan.lists.get(layout.everything) or [line for _, line in read_lines(args.target / layout.everything)]
    return with_rests(partitions, everything)


def check_before(
    plan: Plan, partitions: list[Partition], lists: dict[str, list[str]], layout: Layout, args: Namespace
) -> None:
    """Raise UserError for faults that would otherwise stop the work only at its end."""
    if args.link and not any(isinstance(task.source, FolderSource) for task in plan.tasks):
        raise UserError("--link: only extracted folders can be linked, not the members of archives; omit it")
    planned = {task.target for task in plan.tasks}

    def exists(name: str) -> bool:
        return (args.target / name) in planned or (args.target / name).is_file()

    for partition in partitions:
        check_partition(partition, layout, exists)
    for name, lines in lists.items():
        check_replaceable(args.target / name, lines)


def is_complete(task: Task) -> bool:
    """True if the file of a task is complete: it has the member's size, or is a PNG of the colour type with an end."""
    if not task.target.is_file():
        return False
    size = task.target.stat().st_size
    with task.target.open("rb") as file:
        place = datasets.COLOUR_TYPE
        if task.colour is not None and file.read(place + 1)[place:] != bytes([task.colour]):
            return False
        file.seek(-min(len(datasets.PNG_END), size), os.SEEK_END)
        end = file.read()
    # After a power failure a file can have its size but no content.
    return (size == task.source.entries[task.member].size and any(end)) if task.verbatim else end == datasets.PNG_END


def carry_out(tasks: list[Task], link: bool) -> None:
    """Make the files of `tasks`; members are read one after the other and converted in threads."""
    if not tasks:
        return
    check_space([task for task in tasks if not (link and original(task))])
    with ProgressBar("files", len(tasks), unit="file") as bar:
        for _ in ahead(lambda member: make_file(*member, link), read_members(tasks)):
            bar.update()


def read_members(tasks: list[Task]) -> Iterator[tuple[Task, bytes]]:
    """Yield each task with its member's content, in the order of the members in the sources."""
    for source in {id(task.source): task.source for task in tasks}.values():
        wanted = {task.member: task for task in tasks if task.source is source}
        for member, content in source.read(wanted):
            yield wanted[member], content


def make_file(task: Task, content: bytes, link: bool) -> None:
    """Write or link the file of a task. Raises UserError."""
    try:
        made = task.convert(content)
    except Exception as error:  # decoders raise many types on damaged content; all mean that it is damaged
        raise UserError(
            f"{task.source.path}: {task.member} can't be used ({error}); download or copy it again"
        ) from error
    if link and (file := original(task)):
        link_atomically(task.target, file)
    else:
        write_atomically(task.target, made, flush=False)  # the next run detects files that a power failure truncated


def original(task: Task) -> Path | None:
    """The file to link to; None if its content is converted or in an archive."""
    return task.source.locate(task.member) if task.verbatim else None


def check_space(tasks: list[Task]) -> None:
    """Raise UserError if the disk has too little space for the files of `tasks`."""
    if not tasks:
        return
    folder = existing_part(tasks[0].target.parent)
    needed = sum(task.source.entries[task.member].size for task in tasks)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{folder}: about {byte_size(needed)} needed, {byte_size(free)} free; make room")


def print_summary(plan: Plan, partitions: list[Partition], written: int, args: Namespace) -> None:
    """Print the prepared and the published numbers, and the published protocol of each list."""
    console = open_console(markup=False, highlight=False)
    table = Table("", "planned" if args.dry_run else "prepared", "published", "", box=None)
    table.columns[1].justify = table.columns[2].justify = "right"
    found = count_planned(plan, args.target) if args.dry_run else count_prepared(plan, args.target)
    for name, published in plan.published.items():
        note = "" if found[name] == published else "differs from the complete data set"
        if name in plan.known and (args.target / name).is_file():
            note = recognize(args.target / name) or note or "other images than in the published list"
        table.add_row(name, str(found[name]), str(published), note)
    for partition in partitions:
        table.add_row(
            partition.destination, str(len(partition.lines)), "", partition.protocol or "no published partition"
        )
    console.print(table)
    for note in [*shared_images(partitions), *([] if args.dry_run else strays(plan))]:
        console.print(f"note: {note}", soft_wrap=True)
    if plan.tasks:
        verb = "would be written" if args.dry_run else "written"
        console.print(f"{args.target}: {len(plan.tasks) - written} files kept, {written} {verb}", soft_wrap=True)


def count_planned(plan: Plan, target: Path) -> Counter:
    """Number of files by folder, and of lines by list, in a plan."""
    files = Counter(task.target.parent.relative_to(target).as_posix() for task in plan.tasks)
    return files + Counter({name: len(lines) for name, lines in plan.lists.items()})


def count_prepared(plan: Plan, target: Path) -> Counter:
    """Number of files by folder, and of lines by list, on the disk."""
    counts = Counter()
    for name in plan.published:
        path = target / name
        counts[name] = len(visible_files(path)) if path.is_dir() else len(read_lines(path)) if path.is_file() else 0
    return counts


def strays(plan: Plan) -> list[str]:
    """One note per folder with files that are in no list: training on an unlabelled folder would use them."""
    targets = {task.target for task in plan.tasks}
    notes = []
    for folder in sorted({target.parent for target in targets}):
        if strange := [path for path in visible_files(folder) if path not in targets]:
            notes.append(f"{folder} contains {len(strange)} files that are in no list, such as {strange[0].name}")
    return notes


def visible_files(folder: Path) -> list[Path]:
    """The files in `folder` except hidden ones, sorted."""
    return walk(folder, recursive=False)
