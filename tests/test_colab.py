"""A chapter alone, as in Colab: its set-up cell installs the package, and the chapter runs without the repository.

The stand-in for Colab is an environment that has everything the package needs but not the package, and no network.
STLIB_SKIP_COLAB=1 skips this, which takes about a minute.
"""

import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import distribution
from pathlib import Path

import notebook as tool
import pytest
from nbformat.v4 import new_code_cell

ROOT = Path(__file__).parents[1]
CHAPTER = ROOT / "book" / "spacetime-data.ipynb"  # the quickest
PROBE = """import json
import sys
from stlib.data import datasets
table = datasets.available()
print(json.dumps({
    "modules": sorted(module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "stlib"),
    "executable": sys.executable,
    "shipped": str(datasets.SHIPPED),
    "where": table["where"].to_dict(),
}))"""

pytestmark = pytest.mark.skipif(os.environ.get("STLIB_SKIP_COLAB", "0") not in ("", "0"), reason="STLIB_SKIP_COLAB")


def wheel(folder):
    """Build the wheel as tests/data/test_datasets.py does."""
    pytest.importorskip("hatchling", reason="the build backend is not in this environment")
    pip_wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip_wheel, "--wheel-dir", str(folder), str(ROOT)], check=True, timeout=300)
    (path,) = folder.glob("*.whl")
    return path


def environment_without_stlib(folder):
    """Make a virtual environment that sees the packages of this one, all but stlib; return its Python.

    They are links in a folder outside the environment: pip takes them for installed, and may not touch them.
    """
    packages, environment = folder / "packages", folder / "environment"
    packages.mkdir()
    ours = {file.parts[0] for file in distribution("stlib-book").files}
    for site in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(site).iterdir():
            if entry.name not in ours and entry.suffix != ".pth":
                (packages / entry.name).symlink_to(entry)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=300)
    python = environment / "bin" / "python"
    inside = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    (Path(inside.stdout.strip()) / "packages.pth").write_text(f"{packages}\n")
    kernel = folder / "jupyter" / "kernels" / tool.NOTEBOOK_METADATA["kernelspec"]["name"]
    kernel.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "clean", "language": "python"}))
    return python


def run(python, *arguments):
    """Run the environment's Python where no stlib lies around, and return what it printed."""
    command = [python, *arguments]
    done = subprocess.run(command, cwd=python.parent, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def installed(python):
    return set(run(python, "-m", "pip", "list", "--format=freeze").splitlines())


def ticks(notebook):
    text = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    return [line for line in text.splitlines() if line.startswith("✓")]


def claims(notebook):
    """How many times the chapter calls `claim`, cell by cell as written."""
    trees = [ast.parse(cell.source) for cell in notebook.cells if cell.cell_type == "code"]
    calls = [node.func for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return sum(isinstance(function, ast.Name) and function.id == "claim" for function in calls)


@pytest.fixture
def colab(tmp_path, monkeypatch):
    """The environment's Python, with nothing of this machine's settings, no index and no network."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "PYTHON", "STLIB_"))]:
        monkeypatch.delenv(name)
    path = wheel(tmp_path / "wheel")
    python = environment_without_stlib(tmp_path)
    (tmp_path / "home").mkdir()
    settings = {
        "HOME": tmp_path / "home",
        "XDG_CACHE_HOME": tmp_path / "home" / "cache",
        "JUPYTER_PATH": tmp_path / "jupyter",
        "STLIB_SOURCE": path,
        "STLIB_OFFLINE": "1",
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "http_proxy": "http://127.0.0.1:9",  # nobody answers there
        "https_proxy": "http://127.0.0.1:9",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    return python


def test_a_chapter_alone_installs_the_package_and_runs(colab, tmp_path):
    find = "import importlib.util as u; print(u.find_spec('stlib'), u.find_spec('torch') is not None)"
    assert run(colab, "-c", find) == "None True\n"
    before = installed(colab)
    assert not [line for line in before if line.startswith("stlib")]

    folder = tmp_path / "alone"
    folder.mkdir()
    shutil.copy(CHAPTER, folder)
    committed, _ = tool.read(folder / CHAPTER.name)
    notebook, _ = tool.read(folder / CHAPTER.name)
    notebook.cells.append(new_code_cell(PROBE))
    tool.execute(notebook, folder)

    assert tool.faults(notebook) == []
    setup = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert "setup" in setup.metadata.tags and setup.outputs == [], "the set-up cell says something"
    found = json.loads(notebook.cells.pop().outputs[0].text)
    environment = colab.parents[1]
    assert Path(found["executable"]) == colab
    assert len(found["modules"]) > 5
    assert [module for module in found["modules"] if not Path(module).is_relative_to(environment)] == []
    assert Path(found["shipped"]).is_relative_to(environment)
    assert set(found["where"].values()) == {"shipped", "to download"}
    assert claims(notebook) >= 3
    right = sum(tick == "✓ right" for tick in ticks(notebook))
    assert len(ticks(notebook)) == claims(notebook) + right and right >= 3
    assert ticks(notebook) == ticks(committed)

    (line,) = installed(colab) - before
    assert line.startswith("stlib-book==") and before - installed(colab) == set()
    assert [path.name for path in folder.iterdir()] == [CHAPTER.name]
    assert not (tmp_path / "home" / "cache" / "stlib").exists(), "something was downloaded"
