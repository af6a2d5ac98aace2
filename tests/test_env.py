from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dmlf import env
from dmlf.errors import DependencyMissing

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def forget(monkeypatch, module: str) -> None:
    """Let the next import of `module` search for it again, until the test ends."""
    for name in [*sys.modules]:
        if name.partition(".")[0] == module:
            monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """(module, source) -> put such a module first on the path, as a broken installation would."""
    installed = []

    def install(module: str, source: str) -> None:
        (tmp_path / f"{module}.py").write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))
        forget(monkeypatch, module)
        installed.append(module)

    yield install
    for module in installed:
        sys.modules.pop(module, None)


GUARDS = [
    (env.require_torch, "torch", "torch", "torch"),
    (env.require_pytest, "pytest", "pytest", "conformance"),
]


@pytest.mark.parametrize(("guard", "module", "package", "extra"), GUARDS)
def test_absent_package_is_named_with_its_command(monkeypatch, guard, module, package, extra):
    forget(monkeypatch, module)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(DependencyMissing) as caught:
        guard()
    assert caught.value.package == package
    assert caught.value.reason == "is not installed"
    assert caught.value.install == f'pip install -e ".[{extra}]" in the checkout of dmlf'


def test_an_absent_scikit_learn_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(DependencyMissing) as caught:
        env.require_scikit_learn_file("sklearn/datasets/data/digits.csv.gz")
    assert caught.value.reason == "is not installed"
    assert caught.value.install == 'pip install -e ".[torch]" in the checkout of dmlf'


def test_a_scikit_learn_without_the_file_is_told_from_an_absent_one(monkeypatch, tmp_path):
    (tmp_path / "scikit_learn-0.1.dist-info").mkdir()
    (tmp_path / "scikit_learn-0.1.dist-info" / "METADATA").write_text("Name: scikit-learn\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(DependencyMissing) as caught:
        env.require_scikit_learn_file("digits.csv.gz")
    assert caught.value.reason == "has no file digits.csv.gz"
    assert caught.value.install == "pip install --force-reinstall scikit-learn"
    (tmp_path / "digits.csv.gz").touch()
    assert env.require_scikit_learn_file("digits.csv.gz") == tmp_path / "digits.csv.gz"


@pytest.mark.parametrize(("guard", "module", "package", "extra"), GUARDS)
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise OSError('libgomp.so.1:\\n cannot open')", "OSError: libgomp.so.1: cannot open"),
        ("import a_package_that_is_not_there", "No module named 'a_package_that_is_not_there'"),
    ],
)
def test_broken_package_is_told_from_an_absent_one(
    broken, guard, module, package, extra, source, reason
):
    broken(module, source)
    with pytest.raises(DependencyMissing) as caught:
        guard()
    assert reason in caught.value.reason
    assert caught.value.install == f"pip install --force-reinstall {package}"
    assert caught.value.__cause__ is not None


def test_broken_torchvision_keeps_its_reason(broken):
    pytest.importorskip("torch", reason="torch is not installed")
    broken("torchvision", "raise RuntimeError('built for another torch')")
    with pytest.raises(DependencyMissing) as caught:
        env.require_torchvision()
    assert caught.value.package == "torchvision"
    assert "built for another torch" in caught.value.reason


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_torchvision_is_usable_whatever_torch_it_was_built_for():
    pytest.importorskip("torch", reason="torch is not installed")
    if env._version("torchvision") is None:
        pytest.skip("torchvision is not installed")
    run_python(
        "import gc, dmlf.env as env\n"
        "torchvision = env.require_torchvision()\n"
        "gc.collect()\n"
        "assert env.require_torchvision() is torchvision\n"
        "assert torchvision.datasets.KMNIST\n"
        "import torch\n"
        "flip = torchvision.transforms.RandomHorizontalFlip(p=1.0)\n"
        "assert flip(torch.tensor([[[1.0, 2.0]]])).tolist() == [[[2.0, 1.0]]]\n"
    )


def test_operators_are_declared_only_when_the_import_asks_for_them(broken, monkeypatch):
    pytest.importorskip("torch", reason="torch is not installed")
    monkeypatch.setattr(
        env, "_declare_torchvision_operators", lambda: pytest.fail("declared without need")
    )
    broken("torchvision", "value = 3")
    assert env.require_torchvision().value == 3


def test_environment_is_plain_json_without_the_hosts_name():
    captured = env.capture_environment()
    text = json.dumps(captured, allow_nan=False)
    assert captured["logical_cores"] >= captured["affinity_cores"] >= 1
    assert captured["memory_bytes"] > 1 << 26
    assert captured["numpy"] == pytest.importorskip("numpy").__version__
    assert captured["cpu_model"]
    # A short name, such as "linux" or "docker", may stand in the text for what it is.
    if len(socket.gethostname()) > 8:
        assert socket.gethostname() not in text


def test_environment_does_not_import_torch():
    code = (
        "import sys, dmlf.env as env\n"
        "print(env.capture_environment()['torch_threads'], 'torch' in sys.modules)\n"
    )
    assert run_python(code).split() == ["None", "False"]


def test_environment_reports_the_threads_in_force(monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    captured = env.capture_environment()
    assert captured["torch_threads"] == torch.get_num_threads()
    assert captured["torch"] == torch.__version__
    assert captured["thread_variables"]["OMP_NUM_THREADS"] == "3"


def test_command_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(env, "_COMMAND_TIMEOUT_S", 0.1)
    endless = [sys.executable, "-c", "import threading; threading.Event().wait()"]
    assert env._output(endless) is None


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "repository" / "package"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "inner" / "code.py").write_text("value = 1\n")
    (folder / "schema.json").write_text("{}\n")
    monkeypatch.setattr(env, "_PACKAGE", folder)
    return folder


def test_source_hash_follows_content_and_names_alone(package):
    first = env.source_sha256()
    code = package / "inner" / "code.py"
    os.utime(code, (0, 0))
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "code.cpython-311.pyc").write_bytes(b"compiled")
    (package / ".code.py.swp").write_bytes(b"an editor's")
    (package / "README.md").write_text("words")
    assert env.source_sha256() == first
    seen = {first}
    for path, content in (
        (code, "value = 2\n"),
        (package / "schema.json", "{ }\n"),
        (package / "new.py", ""),
    ):
        path.write_text(content)
        seen.add(env.source_sha256())
    code.rename(package / "inner" / "code2.py")
    seen.add(env.source_sha256())
    assert len(seen) == 5


def test_source_hash_tells_where_one_file_ends(package):
    (package / "a.py").write_text("b.py\n\n")
    one = env.source_sha256()
    (package / "a.py").write_text("")
    (package / "b.py").write_text("")
    assert env.source_sha256() != one


def test_constraints_hash(tmp_path):
    path = tmp_path / "constraints.txt"
    assert env.constraints_sha256(path) is None
    path.write_bytes(b"numpy==1\n")
    assert env.constraints_sha256(path) == hashlib.sha256(b"numpy==1\n").hexdigest()


def git(folder: Path, *arguments: str) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=clean | {"GIT_CONFIG_GLOBAL": os.devnull},
    ).stdout.strip()


@needs_git
def test_git_state_of_a_checkout(package, monkeypatch):
    repository = package.parent
    assert env.git_state() == (None, None)
    git(repository, "init", "-q")
    git(repository, "add", ".")
    assert env.git_state() == (None, None)
    git(repository, "commit", "-q", "-m", "first")
    commit = git(repository, "rev-parse", "HEAD")
    assert env.git_state() == (commit, False)
    monkeypatch.setenv("GIT_DIR", str(repository / "elsewhere"))
    assert env.git_state() == (commit, False)
    (package / "untracked.py").write_text("")
    assert env.git_state() == (commit, True)
    (package / "untracked.py").unlink()
    (package / "schema.json").write_text("[]")
    assert env.git_state() == (commit, True)


@needs_git
def test_package_installed_inside_somebodys_repository_has_no_commit(package):
    repository = package.parent
    git(repository, "init", "-q")
    (repository / "theirs.txt").write_text("")
    git(repository, "add", "theirs.txt")
    git(repository, "commit", "-q", "-m", "theirs")
    assert env.git_state() == (None, None)


def test_git_state_without_git(package, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert env.git_state() == (None, None)
