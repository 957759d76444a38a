"""README and the pages: every command is accepted by the real parsers and settings, every link has a target."""

import importlib.util
import re
import shlex
import subprocess
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.run import get_args_parser

from furnace import cli
from furnace.compare.trials import parse_method
from furnace.methods.settings import load_config
from furnace.utils.config import parse_overrides
from tests.conftest import REPOSITORY

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "DATA" / "README.md"]
PAGES += sorted((REPOSITORY / "docs").glob("*.md"))
LONGEST = {"README.md": 130}  # allowed lines; the others have 120
SHELL, OTHER = {"", "bash"}, {"python", "text", "bibtex"}  # languages of fenced blocks
SESSIONS = {"own-dataset.md"}  # pages whose blocks start in the folder in which the previous block ended
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
INLINE = re.compile(r"`((?:python|make|torchrun) [^`]+)`")
SCRIPTS = {"train.py": cli.train, "eval.py": cli.evaluate, "predict.py": cli.predict, "export.py": cli.export}
Rule = Callable[["Command", pytest.MonkeyPatch], None]
MINE = "exp_mine"  # the experiment that the pages create


@dataclass(frozen=True)
class Command:
    """One command of a page, and the folder that it runs in, relative to the checkout."""

    page: Path
    words: tuple[str, ...]
    folder: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}: {' '.join(self.words)}"


def blocks(page: Path) -> Iterator[str]:
    """The fenced blocks of shell commands of a page. Unknown languages are an error."""
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        assert language in SHELL | OTHER, f"{page}: fenced block of {language}"
        if language in SHELL:
            yield block


def commands(page: Path) -> Iterator[Command]:
    """The commands of a page, with `cd` applied and assignments of variables removed."""
    folder = ""
    for block in blocks(page):
        folder = folder if page.name in SESSIONS else ""
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split(" && "):
                words = shlex.split(part, comments=True)
                while words and re.match(r"\w+=", words[0]):
                    words.pop(0)
                if words[:1] == ["cd"]:
                    folder = "" if "$" in words[1] else words[1]
                elif words:
                    yield Command(page, tuple(words), folder)


def inline(page: Path) -> Iterator[Command]:
    """The commands in a page's sentences; `furnace.tools.NAME`, which stands for all tools, is skipped."""
    for text in INLINE.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        words = shlex.split(text)
        if words[-1] != "furnace.tools.NAME":
            yield Command(page, tuple(words), "exp_voc" if words[1] in SCRIPTS else "")


def needs(reason: str) -> Rule:
    """A rule that skips commands that are not ours or can't be tested here."""
    return lambda command, monkeypatch: pytest.skip(reason)


class Parsed(Exception):
    """Raised after a program has parsed its arguments, to stop it there."""


def parsed(program: Callable[[list[str]], object], words: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments as parsed by the program's own parser; the program does nothing else."""
    original = ArgumentParser.parse_args

    def parse(self: ArgumentParser, *given) -> None:
        raise Parsed(original(self, *given))

    with monkeypatch.context() as patch, pytest.raises(Parsed) as stopped:
        patch.setattr(ArgumentParser, "parse_args", parse)
        program([word for word in words if word != "--help"])
    return vars(stopped.value.args[0])


def check_script(command: Command, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check a command of an experiment folder, with the settings of this experiment."""
    experiment = REPOSITORY / (command.folder if command.folder != MINE else "exp_toy")
    args = parsed(partial(SCRIPTS[words[0]], experiment), words[1:], monkeypatch)
    load_config(experiment / (args["file"] or ""), parse_overrides(args["override"]))
    assert "inputs" not in args or args["inputs"], "nothing to predict"


def check_module(name: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check a module with `main(arguments)`: experiment, methods and settings in the arguments must exist."""
    args = parsed(importlib.import_module(name).main, words, monkeypatch)
    if experiment := args.get("experiment"):
        overrides = parse_overrides(args.get("override", []))
        for method in args.get("methods", "cpcl").split(","):
            load_config(REPOSITORY / experiment, overrides | parse_method(method))


def check_python(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    words = list(command.words[1:])
    is_module = words[0] == "-m"
    name = words.pop(0) if not is_module else words.pop(1)
    if name in SCRIPTS:
        check_script(command, [name, *words], monkeypatch)
        return
    words = words[1:] if is_module else words
    assert not command.folder, "furnace is found from the checkout's folder"
    if name == "pytest":
        assert all((REPOSITORY / word).exists() for word in words if not word.startswith("-"))
    elif words:
        check_module(name.removesuffix(".py").replace("/", "."), words, monkeypatch)
    else:  # only mentioned
        assert importlib.util.find_spec(name)


def check_torchrun(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = get_args_parser()
    if "--shutdown-timeout" not in parser.format_help():  # of PyTorch after 2.11, as docs/machines.md says
        parser.add_argument("--shutdown-timeout", type=int)
    args = parser.parse_args(list(command.words[1:]))
    check_script(command, [args.training_script, *args.training_script_args], monkeypatch)


def check_make(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.run(["make", "-n", *command.words[1:]], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def check_bash(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["bash", "-n", *command.words[1:]], cwd=REPOSITORY, check=True)


PREPARES = "copies images of CamVid"
RULES: dict[str, Rule] = {
    "python": check_python,
    "torchrun": check_torchrun,
    "make": check_make,
    "bash": check_bash,
    "source": needs("changes the user's shell"),
    "pip": needs("installs packages"),
    "tensorboard": needs("TensorBoard is optional, and not installed"),
    "export": needs("variables of Slurm"),
    "srun": needs("Slurm"),
    **dict.fromkeys(("mkdir", "cp", "ls", "xargs"), needs(PREPARES)),
}
COMMANDS = [command for page in PAGES for command in (*commands(page), *inline(page))]


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_command(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command without a rule is an error: add a rule, or `needs` with the reason to skip it."""
    monkeypatch.setenv("LOCAL_RANK", "0")  # paths of snapshots need not exist
    assert command.words[0] in RULES, f"no rule for {command.words[0]}"
    RULES[command.words[0]](command, monkeypatch)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub generates them."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_and_length(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST.get(str(page.relative_to(REPOSITORY)), 120)
    for link in LINK.findall(FENCE.sub("", text)):
        file, _, anchor = link.partition("#")
        if not file.startswith(("http:", "https:")):
            target = (page.parent / file).resolve() if file else page
            assert target.exists(), f"{link}: no such file"
            assert not anchor or anchor in anchors(target), f"{link}: no such heading"


def test_every_page_and_picture_is_linked() -> None:
    linked = {
        (page.parent / link.partition("#")[0]).resolve() for page in PAGES for link in LINK.findall(page.read_text())
    }
    assert {*PAGES[2:], *(REPOSITORY / "docs" / "images").iterdir()} <= linked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_blocks_are_shell(page: Path) -> None:
    for block in blocks(page):
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
