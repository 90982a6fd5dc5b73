"""Make the committed stubs from `paceline.proto`, or with `--check` say whether they are what the proto would give.

Generated code demands a protobuf runtime at least as new as its generator, so the generator is pinned to an old one
(grpcio-tools in the `dev` extra) and the stubs run on every later runtime.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
STUBS = ("paceline_pb2.py", "paceline_pb2.pyi", "paceline_pb2_grpc.py")


def generate(into: Path) -> None:
    """Write the stubs into a folder.

    Raises:
        subprocess.CalledProcessError: the proto does not compile, or grpcio-tools is not installed.
    """
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"-Ipaceline/protos={HERE}",
        f"--python_out={into}",
        f"--pyi_out={into}",
        f"--grpc_python_out={into}",
        "paceline/protos/paceline.proto",
    ]
    subprocess.run(command, check=True)


def main() -> int:
    """Regenerate, or compare; returns the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where a stub is out of date")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        made = Path(folder) / "paceline" / "protos"
        stale = [name for name in STUBS if not _same(made / name, HERE / name)]
        if check:
            for name in stale:
                sys.stderr.write(f"protos/{name} is out of date: run python protos/generate.py\n")
            return 1 if stale else 0
        for name in stale:
            shutil.copyfile(made / name, HERE / name)
            sys.stdout.write(f"wrote protos/{name}\n")
    return 0


def _same(left: Path, right: Path) -> bool:
    return right.exists() and filecmp.cmp(left, right, shallow=False)


if __name__ == "__main__":
    raise SystemExit(main())
