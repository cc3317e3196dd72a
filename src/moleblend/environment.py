"""Environment of a run: defaults of the libraries; code, machine and command for the record."""

import datetime
import os
import platform
import resource
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

VERSION = version("moleblend")

_UNKNOWN = "unknown"


def set_library_defaults() -> None:
    """Set defaults of OpenMP and oneDNN, except those that the user has set.

    `import moleblend` calls this function, because OpenMP reads its variables when torch is
    imported. Measurements: docs/multi-gpu.md.

    * `GOMP_SPINCOUNT`: waiting threads go to sleep after 1,000 loops. The default is much longer:
      with another busy process on a two-core machine, pretraining is 40 times slower.
    * `ONEDNN_PRIMITIVE_CACHE_CAPACITY`: oneDNN keeps 8 compiled operations, not 1,024. It compiles
      one for each batch shape, and memory grows with the number of kept ones.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000"
    if "DNNL_PRIMITIVE_CACHE_CAPACITY" not in os.environ:  # its former name, which oneDNN reads too
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8")


def describe_environment() -> dict[str, str]:
    """Describe this process, for the documentation of a run; no result depends on it.

    Returns:
        `time` (UTC), `moleblend`, `code` (the git commit if the package runs from a checkout, and
        whether its files were changed), `python`, `torch`, `machine`, `processor`, `gpu`, `threads`
        and `command`.
    """
    import torch

    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "moleblend": VERSION,
        "code": code_version(Path(__file__).parent),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.platform(),
        "processor": _processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "threads": str(torch.get_num_threads()),
        "command": shlex.join(sys.argv),
    }


def code_version(package: Path) -> str:
    """Return the git commit of a package; `installed` if it is not in a checkout."""
    root = package.parent.parent
    if not (root / ".git").exists():  # a folder, or a file in a worktree
        return "installed"
    try:
        commit = _git(root, "rev-parse", "HEAD")
        is_changed = _git(root, "status", "--porcelain", "--", str(package))
    except (OSError, subprocess.SubprocessError):  # no git, or it does not trust the folder
        return _UNKNOWN
    return f"{commit}, changed since" if is_changed else commit


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()


def _processor() -> str:
    """Return the name of the processor: from /proc/cpuinfo on Linux, else from `platform`."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or _UNKNOWN


def peak_mb() -> float:
    """Return the peak memory of this process in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS reports bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1024**2
