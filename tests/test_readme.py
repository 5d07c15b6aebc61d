import contextlib
import io
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_ten_lines_of_the_readme_run():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line and not line.startswith(("import", "from"))]) <= 10
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {})
    assert "'skill' (lead: 7)" in out.getvalue()


def test_every_path_of_the_map_exists():
    text = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    paths = re.findall(r"`((?:book|stlib|data|tests|tools|benchmarks)/[\w./-]*)`", text)
    assert len(paths) > 12
    for path in paths:
        if "<" not in path and "/x." not in path and "test_x" not in path:
            assert (ROOT / path).exists(), path
