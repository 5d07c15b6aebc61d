"""pyproject.toml, the lock, environment.yml and the version numbers say the same."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import stlib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCK_LINES = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
PIN = re.compile(r"[a-z0-9][a-z0-9.-]*==[0-9][0-9a-z.+!]*( ; [^#@]+)?")
LOCK = [Requirement(line) for line in LOCK_LINES if PIN.fullmatch(line)]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())

# What Colab has before anything is installed; a version is given where the package's lower bound could pass it.
COLAB_PYTHON = "3.13"
COLAB = {
    "accelerate": None,
    "einops": None,
    "h5netcdf": None,
    "h5py": None,  # h5netcdf reads through it
    "matplotlib": "3.10",
    "numpy": "2.1",
    "pandas": "2.2",
    "pooch": None,
    "safetensors": None,
    "scikit-learn": None,
    "scipy": None,  # scikit-learn and statsmodels stand on it
    "statsmodels": None,
    "torch": "2.11",
    "tqdm": None,
    "xarray": "2025.12",
}


def locked(python: str, system: str) -> dict[str, str]:
    """The version of each package that the lock installs there."""
    where = default_environment() | {
        "python_version": python,
        "python_full_version": f"{python}.5",
        "sys_platform": system,
        "platform_system": {"linux": "Linux", "darwin": "Darwin"}[system],
        "platform_machine": {"linux": "x86_64", "darwin": "arm64"}[system],
    }
    lines = [line for line in LOCK if line.marker is None or line.marker.evaluate(where)]
    versions = {canonicalize_name(line.name): next(iter(line.specifier)).version for line in lines}
    assert len(versions) == len(lines), "the lock gives a package two versions in one place"
    return versions


@pytest.mark.parametrize("system", ["linux", "darwin"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_lock_meets_every_bound_of_pyproject(python, system):
    versions = locked(python, system)
    needs = [Requirement(need) for group in (PROJECT["dependencies"], *EXTRAS.values()) for need in group]
    for need in needs:
        name = canonicalize_name(need.name)
        assert name in versions, f"{name} is not in requirements.txt"
        assert need.specifier.contains(versions[name], prereleases=True), f"{need} but {versions[name]} is locked"


def test_lock_is_plain_pins():
    assert [line for line in LOCK_LINES if not PIN.fullmatch(line)] == []


def test_lock_names_no_package_index():
    for name in ("requirements.txt", "environment.yml", "pyproject.toml"):
        assert re.findall(r"--\w*-?(?:index|find-links|trusted-host)\S*", (ROOT / name).read_text()) == []
    assert "://" not in (ROOT / "requirements.txt").read_text()
    assert "://" not in (ROOT / "environment.yml").read_text()


def test_lock_pins_torch_for_cpu_and_gpu_alike():
    assert [(str(line.specifier)[:2], line.marker) for line in LOCK if line.name == "torch"] == [("==", None)]
    assert [line.name for line in LOCK if re.match(r"nvidia|cuda|triton", line.name)] == []


@pytest.mark.parametrize("need", PROJECT["dependencies"])
def test_installing_in_colab_moves_nothing(need):
    need = Requirement(need)
    assert need.name in COLAB
    assert [bound.operator for bound in need.specifier] == [">="], "the package has lower bounds only"
    if COLAB[need.name]:
        assert need.specifier.contains(COLAB[need.name]), f"{need}, but Colab has {COLAB[need.name]}"


def test_python_versions_agree():
    python = SpecifierSet(PROJECT["requires-python"])
    assert [bound.operator for bound in python] == [">="]
    assert python.contains(COLAB_PYTHON) and python.contains("3.11") and not python.contains("3.10")
    (conda,) = [need for need in ENVIRONMENT["dependencies"] if str(need).startswith("python=")]
    assert python.contains(conda.removeprefix("python="))


def test_environment_installs_the_book_extra():
    assert ENVIRONMENT["name"] == "stlib"
    assert ENVIRONMENT["channels"] == ["conda-forge"]
    conda = [need for need in ENVIRONMENT["dependencies"] if isinstance(need, str)]
    assert [need.split("=")[0] for need in conda] == ["python", "pip"], "packages come from pyproject.toml alone"
    (pip,) = [need["pip"] for need in ENVIRONMENT["dependencies"] if isinstance(need, dict)]
    assert pip == ["--editable .[book]"]
    assert "book" in EXTRAS


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == stlib.__version__ == citation["version"]
    assert PROJECT["license"] in citation["license"]


def test_licences_are_the_ones_named():
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    assert "https://creativecommons.org/licenses/by/4.0/" in (ROOT / "LICENSE-TEXT").read_text()
