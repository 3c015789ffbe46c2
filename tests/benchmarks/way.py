"""How long the way takes, as whole processes: python tests/benchmarks/way.py [ARCHIVE]

Prints a Markdown table: wall seconds (median of three where it is short), and the largest process's memory. ARCHIVE is a
folder of MRI; without one, the demo's own archive of digital patients is encoded.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DECIPHER = Path(sys.executable).parent / "decipher"
Row = tuple[str, float, float]


def timed(words: list[str | Path], where: Path) -> tuple[float, float]:
    """(wall seconds, peak GB of any child so far) of one command; an error ends the benchmark."""
    began = time.monotonic()
    subprocess.run([str(DECIPHER), *map(str, words)], cwd=where, check=True, capture_output=True)
    return time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20


def median(words: list[str | Path], where: Path, times: int = 3) -> tuple[float, float]:
    runs = [timed(words, where) for _ in range(times)]
    return statistics.median(seconds for seconds, _ in runs), runs[-1][1]


def measure(archive: Path | None, where: Path) -> list[Row]:
    rows = [("decipher --help", *median(["--help"], where))]
    demo = timed(["demo"], where)
    archive = archive or where / "decipher-demo" / "archive"
    encode = timed(["encode", archive], where)
    again = timed(["encode", archive], where)
    search = median(["search", "T2 hyperintense lesion"], where)
    probe = timed(["probe", "--task", "age"], where)
    rows += [("decipher search, cold process", *search), ("decipher probe --task age", *probe)]
    rows += [("decipher encode, again", *again), (f"decipher encode {archive.name}", *encode), ("decipher demo", *demo)]
    return rows


def main() -> None:
    archive = Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(archive, Path(folder))
    print("| command | seconds | peak memory so far, GB |\n|---|---|---|")
    for name, seconds, peak in rows:
        print(f"| `{name}` | {seconds:.2f} | {peak:.2f} |")


if __name__ == "__main__":
    main()
