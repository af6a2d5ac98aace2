"""Downloads against a server of our own on the loopback, through torchvision where it matters."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import os
import socket
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest

from dmlf.env import require_torchvision
from dmlf.errors import DatasetError, DependencyMissing
from dmlf.tasks import download
from dmlf.tasks.download import download_missing
from dmlf.tasks.images import KMNIST, load_images

NAMES = [
    f"{prefix}-{kind}-ubyte"
    for prefix in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
]


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def torchvision_class(monkeypatch):
    try:
        kmnist = require_torchvision().datasets.KMNIST
    except DependencyMissing as missing:
        pytest.skip(str(missing))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return kmnist


@pytest.fixture
def server(tmp_path, write_image_files, torchvision_class, monkeypatch):
    """Serve four small archives as torchvision's own mirror; yields the served folder."""
    served = tmp_path / "served"
    write_image_files(served)
    resources = []
    for name in NAMES:
        archive = served / f"{name}.gz"
        archive.write_bytes(gzip.compress((served / name).read_bytes()))
        resources.append((archive.name, hashlib.md5(archive.read_bytes()).hexdigest()))
        (served / name).unlink()
    handler = partial(QuietHandler, directory=str(served))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        mirror = f"http://127.0.0.1:{http_server.server_port}/"
        monkeypatch.setattr(torchvision_class, "mirrors", [mirror])
        monkeypatch.setattr(torchvision_class, "resources", resources)
        try:
            yield served
        finally:
            http_server.shutdown()
            thread.join()


def files_under(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_downloads_verifies_and_leaves_only_the_four_files(server, tmp_path, capfd):
    data_dir = tmp_path / "new" / "data"
    dataset = load_images(KMNIST, data_dir)
    assert dataset.train_inputs.shape == (20, 1, 28, 28)
    assert files_under(data_dir) == sorted(
        ["KMNIST", "KMNIST/raw", *(f"KMNIST/raw/{name}" for name in NAMES)]
    )
    assert capfd.readouterr() == ("", "")
    for archive in server.iterdir():
        archive.unlink()
    assert load_images(KMNIST, data_dir).test_inputs.shape == (10, 1, 28, 28)


def test_archive_with_a_wrong_checksum_is_never_used(server, tmp_path):
    archive = server / f"{NAMES[3]}.gz"
    archive.write_bytes(archive.read_bytes() + b"\x00")
    data_dir = tmp_path / "data"
    with pytest.raises(DatasetError) as caught:
        load_images(KMNIST, data_dir)
    assert "corrupted" in caught.value.problem
    assert files_under(data_dir) == []


def serve_instead(torchvision_class, monkeypatch, server, name: str, content: bytes) -> None:
    """Replace one archive by another that has the right checksum."""
    archive = server / f"{name}.gz"
    archive.write_bytes(gzip.compress(content))
    checksums = dict(torchvision_class.resources)
    checksums[archive.name] = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(torchvision_class, "resources", list(checksums.items()))


def test_download_with_a_label_outside_the_classes_is_not_put_in_place(
    server, tmp_path, torchvision_class, monkeypatch, idx_bytes
):
    # torchvision reads such labels without complaint.
    labels = idx_bytes(np.array([1, 2, 3, 11, 4, 5, 6, 7, 8, 9]))
    serve_instead(torchvision_class, monkeypatch, server, NAMES[3], labels)
    with pytest.raises(DatasetError) as caught:
        load_images(KMNIST, tmp_path / "data")
    assert "label 11 of sample 3" in caught.value.problem
    assert files_under(tmp_path / "data") == []


def test_download_that_torchvision_cannot_read_is_a_dataset_error(
    server, tmp_path, torchvision_class, monkeypatch, idx_bytes
):
    serve_instead(torchvision_class, monkeypatch, server, NAMES[0], idx_bytes(np.arange(20)))
    with pytest.raises(DatasetError, match="ValueError"):
        load_images(KMNIST, tmp_path / "data")
    assert files_under(tmp_path / "data") == []


def test_offline_says_which_files_go_where(tmp_path, torchvision_class, monkeypatch, capfd):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setattr(torchvision_class, "mirrors", [f"http://127.0.0.1:{port}/"])
    with pytest.raises(DatasetError) as caught:
        load_images(KMNIST, tmp_path / "data")
    assert caught.value.path == str(tmp_path / "data" / "KMNIST" / "raw")
    assert all(name in caught.value.problem for name in NAMES)
    assert "\n" not in str(caught.value)
    assert files_under(tmp_path / "data") == []
    assert capfd.readouterr() == ("", "")


def test_server_that_never_answers_is_given_up(tmp_path, torchvision_class, monkeypatch):
    monkeypatch.setattr(download, "_SOCKET_TIMEOUT_S", 0.1)
    before = socket.getdefaulttimeout()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setattr(torchvision_class, "mirrors", [f"http://127.0.0.1:{port}/"])
        with pytest.raises(DatasetError, match="timed out"):
            load_images(KMNIST, tmp_path / "data")
    assert socket.getdefaulttimeout() == before
    assert files_under(tmp_path / "data") == []


@pytest.fixture
def fake_torchvision(monkeypatch, write_image_files):
    """Replace torchvision by a class that writes the files itself; `.calls` lists its roots."""
    fake = SimpleNamespace(calls=[], before_writing=lambda root: None)

    def dataset_class(root, download):
        assert download
        fake.calls.append(root)
        fake.before_writing(root)
        write_image_files(root / "KMNIST" / "raw")

    fake.datasets = SimpleNamespace(KMNIST=dataset_class)
    monkeypatch.setattr(download, "require_torchvision", lambda: fake)
    return fake


def fetch(data_dir):
    return download_missing("KMNIST", NAMES, data_dir, verify=lambda staged: None)


def test_files_that_are_there_are_never_replaced(tmp_path, fake_torchvision):
    folder = tmp_path / "KMNIST" / "raw"
    folder.mkdir(parents=True)
    (folder / NAMES[0]).write_bytes(b"the user's own")
    assert fetch(tmp_path) == folder
    assert (folder / NAMES[0]).read_bytes() == b"the user's own"
    assert sorted(os.listdir(folder)) == sorted(NAMES)


def test_remains_of_a_killed_download_are_removed(tmp_path, fake_torchvision):
    remains = tmp_path / ".download-KMNIST" / "KMNIST" / "raw" / NAMES[0]
    remains.parent.mkdir(parents=True)
    remains.write_bytes(b"half")
    fake_torchvision.before_writing = lambda root: pytest.fail("kept") if remains.exists() else None
    fetch(tmp_path)
    assert os.listdir(tmp_path) == ["KMNIST"]


def test_no_file_is_added_when_the_download_breaks_in_the_middle(tmp_path, fake_torchvision):
    def break_off(root):
        (root / NAMES[0]).write_bytes(b"half")
        raise ConnectionResetError("reset by peer")

    fake_torchvision.before_writing = break_off
    with pytest.raises(DatasetError, match="reset by peer"):
        fetch(tmp_path)
    assert os.listdir(tmp_path) == []


def test_lock_is_held_while_downloading(tmp_path, fake_torchvision):
    def lock_again(root):
        descriptor = os.open(tmp_path, os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)

    fake_torchvision.before_writing = lock_again
    fetch(tmp_path)
    assert len(fake_torchvision.calls) == 1


def test_process_that_waited_finds_the_files_and_does_not_download(
    tmp_path, fake_torchvision, write_image_files, monkeypatch
):
    waiting = threading.Event()

    def flock(descriptor, operation):
        waiting.set()
        fcntl.flock(descriptor, operation)

    monkeypatch.setattr(download, "fcntl", SimpleNamespace(flock=flock, LOCK_EX=fcntl.LOCK_EX))
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        second = threading.Thread(target=fetch, args=(tmp_path,), daemon=True)
        second.start()
        assert waiting.wait(timeout=10)
        write_image_files(tmp_path / "KMNIST" / "raw")
    finally:
        os.close(descriptor)
    second.join(timeout=10)
    assert not second.is_alive()
    assert fake_torchvision.calls == []


def test_data_dir_that_cannot_be_written(tmp_path, fake_torchvision):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DatasetError, match="cannot be written"):
        fetch(tmp_path / "file")
    assert fake_torchvision.calls == []
