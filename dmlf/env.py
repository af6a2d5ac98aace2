"""What surrounds a run: guards for optional packages, the machine, and provenance of the code."""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import importlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from dmlf.errors import DependencyMissing
from dmlf.plugins import source_files

_PACKAGE = Path(__file__).resolve().parent
_COMMAND_TIMEOUT_S = 5.0
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "OMP_PROC_BIND",
    "KMP_AFFINITY",
)
# Files that judge, sum up, draw, tell, check protocols apart, or serve scripts of a user's own:
# they come after a run, or have no part in one, and cannot change what it computes. What is not
# named here counts as deciding it.
AFTER_A_RUN = (
    "benchmark/checks.py",
    "benchmark/claims.py",
    "benchmark/cohorts.py",
    "benchmark/collective/*",
    "benchmark/cost_model/*",
    "benchmark/compare/*",
    "benchmark/diff.py",
    "benchmark/faults/*",
    "benchmark/gather.py",
    "benchmark/interference.py",
    "benchmark/layout.py",
    "benchmark/noise.py",
    "benchmark/plots/*",
    "benchmark/projection/*",
    "benchmark/recorded_step.py",
    "benchmark/records.py",
    "benchmark/report/*",
    "benchmark/statements.py",
    "benchmark/statistics.py",
    "benchmark/table.py",
    "benchmark/targets.py",
    "benchmark/verify.py",
    "conformance/*",
    "cli/benchmark.py",
    "cli/checkpoint.py",
    "cli/collective.py",
    "cli/compare.py",
    "cli/evidence.py",
    "cli/faults.py",
    "cli/overhead.py",
    "cli/plugins.py",
    "cli/projection.py",
    "cli/protocol_check.py",
    "cli/protocols.py",
    "cli/run.py",
    "group/*",
    "simulation/*",
    "state/*",
    "torch/*",
)
# The same for the collective benchmark, whose own sources do decide what it measures.
AFTER_COLLECTIVES = (
    *(
        pattern
        for pattern in AFTER_A_RUN
        if pattern not in ("benchmark/collective/*", "cli/collective.py", "group/*")
    ),
    "benchmark/collective/load.py",
    "benchmark/collective/statements.py",
    "benchmark/collective/summary.py",
    "benchmark/collective/table.py",
)
# And for fault campaigns and the measurement of what being ready for faults costs.
AFTER_FAULTS = (
    *(
        pattern
        for pattern in AFTER_A_RUN
        if pattern not in ("benchmark/faults/*", "cli/faults.py", "cli/overhead.py")
    ),
    "benchmark/faults/load.py",
    "benchmark/faults/statements.py",
    "benchmark/faults/summary.py",
)
# DMI vendor -> the name that systemd-detect-virt gives.
_VIRTUAL_VENDORS = {
    "QEMU": "qemu",
    "VMware, Inc.": "vmware",
    "innotek GmbH": "oracle",
    "Xen": "xen",
    "Amazon EC2": "amazon",
    "Google": "google",
    "Parallels": "parallels",
}


# Typed Any: the packages are optional, and a module's attributes are not known to the checker.
def require_torch() -> Any:
    """Return the module torch. Raises DependencyMissing."""
    return _require("torch", package="torch", extra="torch")


def require_scikit_learn_file(name: str) -> Path:
    """Where scikit-learn installed `name`, such as `sklearn/datasets/data/digits.csv.gz`.

    Nothing is imported: scikit-learn and scipy take a second in every process.
    Raises DependencyMissing.
    """
    package = "scikit-learn"
    try:
        path = Path(str(importlib.metadata.distribution(package).locate_file(name)))
    except importlib.metadata.PackageNotFoundError as error:
        install = 'pip install -e ".[torch]" in the checkout of dmlf'
        raise DependencyMissing(package, "is not installed", install) from error
    if not path.is_file():
        reinstall = f"pip install --force-reinstall {package}"
        raise DependencyMissing(package, f"has no file {name}", reinstall)
    return path


def require_torchvision() -> Any:
    """Return the module torchvision, usable for its data sets and transforms.

    A torchvision that was built against CUDA libraries cannot load its compiled operators beside
    a CPU build of torch, and its import then fails on the operator `nms`. In that case, and no
    other, the operators are declared (without an implementation) and the import is repeated.
    Raises DependencyMissing.
    """
    require_torch()
    try:
        return _require("torchvision", package="torchvision", extra="torch")
    except DependencyMissing as error:
        if "operator torchvision::" not in error.reason:
            raise
    _declare_torchvision_operators()
    return _require("torchvision", package="torchvision", extra="torch")


def require_pytest() -> Any:
    """Return the module pytest. Raises DependencyMissing."""
    return _require("pytest", package="pytest", extra="conformance")


def require_mpi() -> Any:
    """Return the module mpi4py.MPI; MPI is initialised by that. Raises DependencyMissing."""
    return _require("mpi4py.MPI", package="mpi4py", extra="mpi")


@functools.cache  # torch forgets the operators when the returned library is collected
def _declare_torchvision_operators() -> Any:
    library = require_torch().library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def _require(module: str, *, package: str, extra: str) -> ModuleType:
    """Import an optional module, or say whether it is absent or broken, and what to run."""
    try:
        return importlib.import_module(module)
    except Exception as error:
        top_level = module.partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and error.name == top_level:
            install = f'pip install -e ".[{extra}]" in the checkout of dmlf'
            raise DependencyMissing(package, "is not installed", install) from error
        reason = " ".join(f"does not load ({type(error).__name__}: {error})".split())
        # A plain install would find the broken package satisfied and change nothing.
        raise DependencyMissing(package, reason, f"pip install --force-reinstall {package}") from (
            error
        )


def capture_environment() -> dict[str, Any]:
    """Return what can be read of machine and interpreter, JSON-ready, unknown values None.

    Neither the host's name nor a user's name is among it. torch is described, never imported:
    `torch_threads` is known only in a process that uses torch.
    """
    torch = sys.modules.get("torch")
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "kernel": platform.release(),
        "cpu_model": _cpu_model(),
        "logical_cores": os.cpu_count(),
        "affinity_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "virtualization": _virtualization(),
        "governor": _first_line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "torch": _version("torch"),
        "torch_threads": None if torch is None else torch.get_num_threads(),
        "numpy": _version("numpy"),
        "thread_variables": {
            name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ
        },
    }


def source_sha256(left_out: Sequence[str] = AFTER_A_RUN) -> str:
    """Hash the files that decide a run, by path and content, in sorted order.

    left_out: patterns of the files that decide nothing.

    Compiled files, hidden files and documentation (.md) are left out: they compute nothing. So is
    what comes after a run: an edit of a figure does not make results stale.
    """
    digest = hashlib.sha256()
    for relative in sorted(
        path.relative_to(_PACKAGE).as_posix() for path in source_files(_PACKAGE)
    ):
        if any(fnmatch.fnmatchcase(relative, pattern) for pattern in left_out):
            continue
        content = (_PACKAGE / relative).read_bytes()
        # The length parts one file from the next, so no two trees give the same stream.
        digest.update(f"{relative}\n{len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def constraints_sha256(path: Path) -> str | None:
    """Hash the file of pinned dependencies; None where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def git_state() -> tuple[str | None, bool | None]:
    """Return (commit, dirty) of the checkout that the package's source is tracked in.

    (None, None) where the package is installed elsewhere, git is absent or nothing is committed.
    Untracked files count as dirty: they can be imported. Never raises.
    """
    # Without this check, a package installed into an environment inside somebody's repository
    # would be given that repository's commit.
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    commit = _git("rev-parse", "--verify", "HEAD")
    status = _git("status", "--porcelain")
    if commit is None or status is None:
        return None, None
    return commit, bool(status)


def _git(*arguments: str) -> str | None:
    # Inside a hook, GIT_DIR and its kin name another repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    # Without optional locks, or `status` could get in the way of the user's own git.
    return _output(["git", "--no-optional-locks", "-C", str(_PACKAGE), *arguments], environment)


def _output(
    command: list[str],
    environment: dict[str, str] | None = None,
    accepted: tuple[int, ...] = (0,),
) -> str | None:
    """Return a command's output, stripped; None where it is absent, fails or takes too long."""
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode in accepted else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _virtualization() -> str | None:
    # On bare metal it prints "none" and exits with 1.
    detected = _output(["systemd-detect-virt"], accepted=(0, 1))
    if detected:
        return detected
    return _VIRTUAL_VENDORS.get(_first_line(Path("/sys/class/dmi/id/sys_vendor")) or "")


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").partition("\n")[0].strip() or None
    except OSError:
        return None
