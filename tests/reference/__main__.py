"""`python -m tests.reference [DIR]`: compare every recorded case in DIR, one line a case.

A case is CASE.json (configuration, loss, gradient norms), CASE.io.safetensors (inputs and results) and
CASE.weights*.safetensors (all weights, in one file or several). The line shows the largest difference of each quantity;
what is out of tolerance makes the exit status 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.reference.compare import Result, compare_case

CASES = Path(__file__).parent / "cases"


def find_cases(folder: Path) -> list[Path]:
    """Prefixes of the cases in a folder: CASE.json with its two tensor files."""
    prefixes = (path.with_name(path.name.removesuffix(".io.safetensors")) for path in folder.glob("*.io.safetensors"))
    return sorted(prefixes)


def check(case: Path) -> Result:
    """Compare a case; one that cannot be read or run is one that does not agree."""
    try:
        return compare_case(case)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        return Result(case.name, failures=[f"{type(error).__name__}: {error}"])


def main() -> int:
    """Exit status: 0 all cases agree, 1 one does not, 2 there is none."""
    parser = argparse.ArgumentParser(description="Compare recorded cases with this implementation.")
    parser.add_argument("folder", nargs="?", type=Path, default=CASES, help="folder with the cases")
    folder: Path = parser.parse_args().folder
    cases = find_cases(folder)
    if not cases:
        print(f"no cases in {folder}", file=sys.stderr)
        return 2
    passed = True
    for case in cases:
        result = check(case)
        print(result.line(), flush=True)
        passed &= result.passed
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
