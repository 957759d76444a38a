"""The project as a package: consistent requirements, and all parts are installed."""

from importlib.metadata import version

import pytest
from packaging.requirements import Requirement
from setuptools.config.pyprojecttoml import read_configuration

from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def project() -> dict:
    return read_configuration(REPOSITORY / "pyproject.toml")["project"]


def lines(name: str) -> set[str]:
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    return {str(Requirement(line)) for line in text.splitlines() if line and not line.startswith("#")}


def test_requirements_are_those_of_the_files(project: dict):
    assert {str(Requirement(line)) for line in project["dependencies"]} == lines("requirements.txt")
    for name in ("dev", "wandb"):
        found = {str(Requirement(line)) for line in project["optional_dependencies"][name]}
        assert found == lines(f"requirements-{name}.txt")


def test_every_requirement_is_installed_in_a_fitting_version():
    for line in lines("requirements.txt") | lines("requirements-dev.txt"):
        requirement = Requirement(line)
        assert requirement.specifier.contains(version(requirement.name), prereleases=True), line


def test_the_package_is_furnace_with_all_its_subpackages():
    found = read_configuration(REPOSITORY / "pyproject.toml")["tool"]["setuptools"]["packages"]
    rooms = {path.parent.relative_to(REPOSITORY) for path in (REPOSITORY / "furnace").rglob("*.py")}
    assert set(found) == {".".join(room.parts) for room in rooms}


def test_templates_styles_and_scripts_of_the_pages_are_installed():
    declared = read_configuration(REPOSITORY / "pyproject.toml")["tool"]["setuptools"]["package-data"]
    for path in REPOSITORY.glob("furnace/**/*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            package = ".".join(path.parent.relative_to(REPOSITORY).parts)
            assert any(path.match(pattern) for pattern in declared.get(package, [])), path
