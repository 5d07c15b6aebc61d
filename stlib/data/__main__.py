"""List, describe and fetch the data sets: `python -m stlib.data [describe NAME | fetch NAME]`."""

import argparse
import sys

from stlib.data import datasets


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m stlib.data", description="The book's data sets.")
    commands = parser.add_subparsers(dest="command", metavar="{list,describe,fetch}")
    commands.add_parser("list", help="list the data sets (the default)")
    commands.add_parser("describe", help="print a data set's card").add_argument("name")
    commands.add_parser("fetch", help="download a data set where needed and print its path").add_argument("name")
    arguments = parser.parse_args()
    try:
        if arguments.command == "describe":
            print(datasets.card(arguments.name))
        elif arguments.command == "fetch":
            print(datasets.fetch(arguments.name))
        else:
            print(datasets.available().to_string())
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
