"""Execute a notebook in a fresh kernel and write it back normalised; `--check` only says what is not normalised.

    python tools/notebook.py book/x.ipynb [...]
    python tools/notebook.py --check book/x.ipynb [...]

A normalised notebook has execution counts in order, only metadata that mean something (kernel and language; of a cell
its tags, `cellView` and `mystnb`), cell ids that follow from the cells' text, merged streams and no random ids. A cell
that fails, writes to stderr or shows a memory address is an error, and then the file stays as it was.
"""

import argparse
import hashlib
import re
import sys
import time
import uuid
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import NoSuchKernel
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, CellTimeoutError, DeadKernelError

SECONDS_A_CELL = 600
NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}
KEPT_CELL_METADATA = ("cellView", "mystnb", "tags")
ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")
COLOUR_CODE = re.compile(r"\x1b\[[0-9;]*m")
RANDOM_ID = re.compile(  # of xarray's and matplotlib's HTML: UUIDs with and without dashes
    r"(?<![0-9a-f])(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32})(?![0-9a-f])"
)


def read(path):
    """The notebook and its bytes as text; OSError or ValueError, in one line, when there is none."""
    text = Path(path).read_bytes().decode("utf-8")
    try:
        notebook = nbformat.reads(text, as_version=4)
        nbformat.validate(notebook)
    except Exception as error:  # nbformat and jsonschema raise a dozen kinds
        raise ValueError(f"not a notebook: {str(error).splitlines()[0]}") from None
    return notebook, text


def dumps(notebook):
    """The text of the file: JSON with indent 1, sorted keys and a newline at the end."""
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def execute(notebook, folder):
    """Run the cells top to bottom in a fresh kernel in `folder`; RuntimeError names the cell that fails."""
    started = [0]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        timeout=SECONDS_A_CELL,
        kernel_name=NOTEBOOK_METADATA["kernelspec"]["name"],
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
        on_cell_execute=lambda cell, cell_index: started.append(cell_index),
    )
    try:
        client.execute()
    except (CellControlSignal, DeadKernelError) as error:
        n = sum(cell.cell_type == "code" for cell in notebook.cells[: started[-1] + 1])
        why = "took too long" if isinstance(error, CellTimeoutError) else "failed"
        raise RuntimeError(f"code cell {n} {why}\n{COLOUR_CODE.sub('', str(error)).strip()}") from None


def normalise(notebook):
    """A copy without noise. What a reader sees, and the execution counts, stay."""
    notebook = nbformat.from_dict({**notebook, "metadata": NOTEBOOK_METADATA, "nbformat": 4, "nbformat_minor": 5})
    seen, random_ids = {}, {}
    for cell in notebook.cells:
        cell.source = cell.source.replace("\r\n", "\n").rstrip()
        cell.metadata = nbformat.from_dict({k: cell.metadata[k] for k in KEPT_CELL_METADATA if cell.metadata.get(k)})
        repeat = seen[cell.cell_type, cell.source] = seen.get((cell.cell_type, cell.source), 0) + 1
        cell.id = hashlib.sha256(f"{cell.cell_type}\n{repeat}\n{cell.source}".encode()).hexdigest()[:8]
        if cell.cell_type == "code":
            cell.outputs = merged_streams(cell.outputs)
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = cell.execution_count
                if "text/html" in output.get("data", {}):
                    output.data["text/html"] = RANDOM_ID.sub(
                        lambda found: random_ids.setdefault(found[0], numbered_id(found[0], len(random_ids))),
                        output.data["text/html"],
                    )
    return notebook


def numbered_id(random_id, number):
    """The `number`-th id of a notebook, dashed or not as the random one was."""
    stable = uuid.uuid5(uuid.NAMESPACE_OID, str(number))
    return str(stable) if "-" in random_id else stable.hex


def merged_streams(outputs):
    merged = []
    for output in outputs:
        last = merged[-1] if merged else {}
        if output.output_type == "stream" and output.name == last.get("name"):
            last["text"] += output.text
        else:
            merged.append(output)
    return merged


def faults(notebook):
    """What is wrong with the executed cells, one line each, counting code cells from 1."""
    found = []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for n, cell in enumerate(code, start=1):
        if not cell.source.strip():
            found.append(f"code cell {n} is empty")
        elif cell.execution_count is None:
            found.append(f"code cell {n} was never executed")
        elif cell.execution_count != n:
            found.append(f"code cell {n} was executed out of order: its count is {cell.execution_count}")
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"code cell {n} ends in an error: {output.ename}: {output.evalue}")
            if output.get("name") == "stderr":
                found.append(f"code cell {n} wrote to stderr: {output.text.strip()}")
            for text in (output.get("text", ""), *output.get("data", {}).values()):
                if isinstance(text, str) and (address := ADDRESS.search(text)):
                    found.append(f"code cell {n} shows a memory address, {address[0]}: assign the result to `_`")
    return found


def check(path):
    """What keeps the file from being a normalised notebook, one line each."""
    notebook, text = read(path)
    wanted = normalise(notebook)
    found = faults(notebook)
    if notebook.metadata != wanted.metadata:
        found.append("the notebook's metadata are not normalised")
    for n, (cell, clean) in enumerate(zip(notebook.cells, wanted.cells, strict=True), start=1):
        parts = sorted(key for key in cell.keys() | clean.keys() if cell.get(key) != clean.get(key))
        if parts:
            found.append(f"cell {n} is not normalised: {', '.join(parts)}")
    if not found and text != dumps(wanted):
        found.append("the file's layout is not normalised")
    return found


def run(path):
    """Execute and normalise the file in place, or leave it as it was and raise RuntimeError."""
    notebook, _ = read(path)
    begin = time.perf_counter()
    execute(notebook, path.resolve().parent)
    seconds = time.perf_counter() - begin
    if found := faults(notebook):
        raise RuntimeError("\n".join(found))
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(dumps(normalise(notebook)), encoding="utf-8", newline="\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return seconds


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Execute and normalise notebooks in place.")
    parser.add_argument("paths", nargs="+", type=Path, metavar="notebook")
    parser.add_argument("--check", action="store_true", help="execute and write nothing; say what is not normalised")
    options = parser.parse_args(arguments)
    failed = False
    for path in options.paths:
        try:
            if options.check:
                lines = check(path)
            else:
                lines = []
                print(f"{path}: {run(path):.1f} s")
        except (OSError, ValueError, RuntimeError, NoSuchKernel) as error:
            lines = [str(error)]
        for line in lines:
            print(f"{path}: {line}", file=sys.stderr)
        failed = failed or bool(lines)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
