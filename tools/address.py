"""Give the repository another address: in `_config.yml`, and in every file of the checkout that names the old one.

    python tools/address.py https://github.com/owner/name

The set-up cells of the chapters are laid out anew by ruff and normalised; their outputs stay. The old address is the
one in `_config.yml`. What is changed is its `owner/name`, so that other ways to write it (a Colab link, a clone over
ssh) follow.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import notebook as tool
import yaml

ROOT = Path(__file__).parents[1]
ADDRESS = re.compile(r"https://github\.com/([A-Za-z0-9][\w-]*/(?!.*\.git$)[\w.-]*\w)", re.ASCII)


def owner_and_name(address):
    """The part "owner/name"; ValueError for any other address, because Colab opens chapters from GitHub only."""
    if found := ADDRESS.fullmatch(address):
        return found[1]
    raise ValueError(f"the address is {address!r}; needed is https://github.com/owner/name, without .git or a slash")


def files(root):
    """Every file that git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    return [path for name in sorted(set(listed.split("\0")) - {""}) if (path := root / name).is_file()]


def change(address, root):
    """Replace the old address by `address` and return the files that changed."""
    new = owner_and_name(address)
    old = owner_and_name(yaml.safe_load((root / "_config.yml").read_text())["repository"]["url"])
    # Not a part of a longer name: after it comes no further letter, but perhaps ".git" or the full stop of a sentence.
    pattern = re.compile(rf"(?<![\w.-]){re.escape(old)}(?![\w-]|\.(?!git\b)\w)".encode())
    changed = []
    for path in files(root):
        before = path.read_bytes()
        after = pattern.sub(new.encode(), before)
        if after != before:
            path.write_bytes(after)
            changed.append(path)
    chapters = [path for path in changed if path.suffix == ".ipynb"]
    if chapters:
        ruff = [sys.executable, "-m", "ruff", "format", "--quiet", "--no-cache"]
        subprocess.run([*ruff, *map(str, chapters)], cwd=root, check=True)
    for path in chapters:
        path.write_text(tool.dumps(tool.normalise(tool.read(path)[0])), encoding="utf-8", newline="\n")
    return changed


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Give the repository another address, everywhere.")
    parser.add_argument("address", help="https://github.com/owner/name")
    try:
        changed = change(parser.parse_args(arguments).address, ROOT)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    print(*(path.relative_to(ROOT) for path in changed), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
