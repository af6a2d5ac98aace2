"""Damaged and hostile checkpoints: each is refused with a typed error, whoever made it how.

Where a test reseals a checkpoint, all its hashes are right: a forger can do that too.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmlf.checkpoint import CheckpointStore, load_checkpoint, load_newest
from dmlf.checkpoint.manifest import KEYS, decode_manifest
from dmlf.errors import CheckpointCorrupt, CheckpointError, CheckpointMismatch, NoValidCheckpoint
from tests.checkpoint.snapshots import CONFIG, bits, reseal, seal, snapshot

FILES = ("COMPLETE", "manifest.json", "optimizer.safetensors", "parameters.safetensors")
TENSORS = FILES[2:]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid checkpoint of step 5, not to be changed."""
    with CheckpointStore(tmp_path_factory.mktemp("whole"), CONFIG) as store:
        return store.save(snapshot(5))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage, beside a valid one of step 4."""
    with CheckpointStore(tmp_path, CONFIG) as store:
        store.save(snapshot(4))
    return Path(shutil.copytree(whole, tmp_path / whole.name))


def refused(folder: Path) -> str:
    """The problem that is found with a checkpoint; loading must fall back to the one before."""
    with pytest.raises(CheckpointCorrupt) as caught:
        load_checkpoint(folder, None)
    assert caught.value.path == str(folder)
    assert str(caught.value).isprintable()
    assert len(caught.value.problem) <= 500
    loaded = load_newest(folder.parent, CONFIG)
    assert loaded is not None
    assert bits(loaded.snapshot) == bits(snapshot(4))
    assert [(error.path, type(error)) for error in loaded.rejected] == [
        (str(folder), CheckpointCorrupt)
    ]
    return caught.value.problem


def test_the_copy_itself_is_valid(folder: Path) -> None:
    reseal(folder)
    assert bits(load_checkpoint(folder, CONFIG).snapshot) == bits(snapshot(5))


@pytest.mark.parametrize("name", FILES)
def test_truncated(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    lengths = {0, 1, 7, 8, 9, len(content) // 2, len(content) - 1}
    for length in sorted(lengths):
        (folder / name).write_bytes(content[:length])
        refused(folder)
    (folder / name).write_bytes(content + b"\0")
    refused(folder)
    (folder / name).unlink()
    assert name in refused(folder)


@pytest.mark.parametrize("name", FILES)
def test_flipped_anywhere(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    step = max(1, len(content) // 60)
    for position in {*range(0, len(content), step), *range(16), len(content) - 1}:
        content[position] ^= 1 << position % 8
        (folder / name).write_bytes(content)
        with pytest.raises(CheckpointCorrupt):
            load_checkpoint(folder, CONFIG)
        content[position] ^= 1 << position % 8
    (folder / name).write_bytes(content)
    load_checkpoint(folder, CONFIG)


def test_files_swapped(folder: Path) -> None:
    first, second = (folder / name for name in TENSORS)
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    assert "bytes" in refused(folder)
    reseal(folder)
    assert "is not in the manifest" in refused(folder)


def test_files_of_another_step(folder: Path) -> None:
    other = folder.parent / "step-0000000004"
    for name in TENSORS:
        shutil.copy(other / name, folder / name)
    assert "SHA-256" in refused(folder)


def test_a_whole_checkpoint_under_the_name_of_another_step(folder: Path) -> None:
    renamed = folder.rename(folder.parent / "step-0000000006")
    assert "step 5" in refused(renamed)
    for name in ("step-5", "step-0000000005.0", "step-0000000005 (copy)", "step-0000000005\n"):
        renamed = renamed.rename(folder.parent / name)
        with pytest.raises(CheckpointCorrupt):
            load_checkpoint(renamed, None)
    loaded = load_newest(folder.parent, CONFIG)
    assert loaded is not None
    assert loaded.path.name == "step-0000000004"  # a damaged name is never newest, nor unseen
    shutil.rmtree(loaded.path)
    with pytest.raises(NoValidCheckpoint):
        load_newest(folder.parent, CONFIG)


def test_of_another_run(folder: Path) -> None:
    other = replace(CONFIG, seed=4)
    reseal(
        folder,
        lambda manifest: manifest.update(config=other.as_mapping(), config_sha256=other.sha256()),
    )
    load_checkpoint(folder, other)
    with pytest.raises(CheckpointMismatch, match="seed 4 instead of 3"):
        load_checkpoint(folder, CONFIG)
    loaded = load_newest(folder.parent, CONFIG)
    assert loaded is not None
    assert [type(error) for error in loaded.rejected] == [CheckpointMismatch]


def _set(*path: str) -> Callable[[Any], Callable[[dict[str, Any]], None]]:
    def to(value: Any) -> Callable[[dict[str, Any]], None]:
        def change(manifest: dict[str, Any]) -> None:
            where = manifest
            for key in path[:-1]:
                where = where[key]
            where[path[-1]] = value

        return change

    return to


def _drop(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        where = manifest
        for key in path[:-1]:
            where = where[key]
        del where[path[-1]]

    return change


TENSOR = ("files", "optimizer.safetensors", "tensors", "bits.exp_avg")
LIES: dict[str, Callable[[dict[str, Any]], None]] = {
    **{f"no {key}": _drop(key) for key in KEYS},
    **{f"no {name}": _drop("files", name) for name in TENSORS},
    "no tensor": _drop(*TENSOR),
    "no dtype": _drop(*TENSOR, "dtype"),
    "no config key": _drop("config", "seed"),
    "no sampler step": _drop("sampler", "step"),
    "future version": _set("version")(3),
    "past version": _set("version")(1),
    "version 2.0": _set("version")(2.0),
    "version true": _set("version")(True),
    "other format": _set("format")("tar"),
    "unknown key": _set("pickle")("gASVAAAAAAAAAC4="),
    "other step": _set("step")(6),
    "negative step": _set("step")(-5),
    "huge step": _set("step")(10**400),
    "float step": _set("step")(5.0),
    "sampler elsewhere": _set("sampler", "epoch")(0),
    "sampler list": _set("sampler")([1, 1]),
    "random list": _set("random")([]),
    "config list": _set("config")([]),
    "config of another hash": _set("config", "seed")(4),
    "hash of another config": _set("config_sha256")("0" * 64),
    "impossible config": _set("config", "world_size")(10**9),
    "config of huge number": _set("config", "learning_rate")(10**400),
    "config of wrong type": _set("config", "hidden_sizes")(None),
    "config options of wrong type": _set("config", "task_options")([1]),
    "config with a long text": _set("config", "task")("-" * 10_000),
    "config of unknown key": _set("config", "code")("import os"),
    "no hash": _set("source_sha256")("g" * 64),
    "files list": _set("files")([]),
    "dtype of equal size": _set(*TENSOR, "dtype")("<i4"),
    "dtype of objects": _set(*TENSOR, "dtype")("|O"),
    "dtype big-endian": _set(*TENSOR, "dtype")(">f4"),
    "dtype list": _set(*TENSOR, "dtype")(["<f4"]),
    "shape transposed": _set(*TENSOR, "shape")([3, 4]),
    "shape negative": _set(*TENSOR, "shape")([-4, -3]),
    "shape overflowing": _set(*TENSOR, "shape")([2**47, 2**47]),
    "shape of many dimensions": _set(*TENSOR, "shape")([1] * 65),
    "shape of bools": _set(*TENSOR, "shape")([True]),
    "file's size": _set("files", TENSORS[0], "size")(10**12),
    "file's hash": _set("files", TENSORS[0], "sha256")("0" * 64),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_manifest_that_lies(folder: Path, lie: Callable[[dict[str, Any]], None]) -> None:
    reseal(folder, lie)
    refused(folder)


@pytest.mark.parametrize(
    "name",
    ["../outside.safetensors", "/etc/passwd", "a/optimizer.safetensors", ".", "", "parameters",
     "optimizer.0.safetensors", "COMPLETE", "manifest.json", "optimizer.safetensors\n"],
)  # fmt: skip
def test_a_file_name_that_leads_elsewhere(folder: Path, name: str) -> None:
    (folder.parent / "outside.safetensors").write_bytes((folder / TENSORS[0]).read_bytes())

    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][name] = manifest["files"].pop(TENSORS[0])

    reseal(folder, change)
    refused(folder)


@pytest.mark.parametrize("name", ["extra", "optimizer.1.safetensors", "data.pkl", ".hidden"])
def test_an_unlisted_file(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")
    assert name in refused(folder)


class Planted:
    """Unpickling it would leave a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("name", FILES)
def test_a_pickle_is_never_loaded(folder: Path, name: str) -> None:
    trace = folder.parent / "unpickled"
    (folder / name).write_bytes(pickle.dumps(Planted(trace)))
    if name in TENSORS:
        reseal(folder)
    elif name == "manifest.json":
        seal(folder, (folder / name).read_bytes())
    refused(folder)
    assert not trace.exists()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["fifo", "symlink", "dangling", "folder", "socket", "device"])
def test_what_is_no_regular_file(folder: Path, name: str, kind: str) -> None:
    path = folder / name
    elsewhere = folder.parent / "elsewhere"
    path.rename(elsewhere)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "symlink":
        path.symlink_to(elsewhere)
    elif kind == "dangling":
        path.symlink_to(folder.parent / "nowhere")
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server, _inside(folder):
            server.bind(name)
    else:
        try:
            os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero
        except PermissionError:
            pytest.skip("device files need root")
    problem = refused(folder)
    assert name in problem
    # A link and a socket cannot even be opened.
    assert ("not a regular file" in problem) == (kind in ("fifo", "folder", "device"))


class _inside:  # noqa: N801
    """A working folder for the while, as the address of a socket is short."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        self._before = Path.cwd()
        os.chdir(self._folder)

    def __exit__(self, *_: object) -> None:
        os.chdir(self._before)


@pytest.mark.parametrize("kind", ["fifo", "symlink", "file"])
def test_what_is_no_folder(folder: Path, kind: str) -> None:
    elsewhere = folder.rename(folder.parent / "elsewhere")
    if kind == "fifo":
        os.mkfifo(folder)
    elif kind == "symlink":
        folder.symlink_to(elsewhere)
    else:
        folder.touch()
    assert "cannot be opened" in refused(folder)


HOSTILE_JSON = {
    "empty": b"",
    "no object": b"[]",
    "null": b"null",
    "NaN": b'{"format": NaN}',
    "infinity": b'{"format": -Infinity}',
    "huge float": b'{"format": 1e999}',
    "long integer": b'{"format": ' + b"9" * 5000 + b"}",
    "deep list": b"[" * 200_000,
    "deep object": b'{"a":' * 200_000,
    "not UTF-8": b'{"format": "\xff"}',
    "UTF-16": '{"format": "dmlf-checkpoint"}'.encode("utf-16"),
    "lone surrogate": b'{"format": "dmlf-checkpoint", "version": 2, "\\ud800": 1}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "trailing": b'{"format": "dmlf-checkpoint"} {}',
}


@pytest.mark.parametrize("content", HOSTILE_JSON.values(), ids=HOSTILE_JSON)
def test_a_manifest_that_is_no_strict_json(folder: Path, content: bytes) -> None:
    seal(folder, content)
    refused(folder)


def test_duplicate_keys(folder: Path) -> None:
    content = (folder / "manifest.json").read_bytes()
    doubled = content.replace(b'"step": 5,', b'"step": 5, "step": 5,', 1)
    assert doubled != content
    seal(folder, doubled)
    assert "'step' stands twice" in refused(folder)


def safetensors(header: bytes | dict[str, Any], data: bytes, length: int | None = None) -> bytes:
    """A file with any header, and any claim of its length."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def _tensor(dtype: Any, shape: Any, start: Any, end: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


DATA = bytes(range(16))
HEADERS: dict[str, bytes] = {
    "good, for comparison": safetensors({"w": _tensor("F32", [2, 2], 0, 16)}, DATA),
    "overlapping": safetensors(
        {"w": _tensor("F32", [2, 2], 0, 16), "v": _tensor("F32", [1], 8, 12)}, DATA
    ),
    "hole": safetensors({"w": _tensor("F32", [2, 2], 4, 20)}, DATA + bytes(4)),
    "trailing": safetensors({"w": _tensor("F32", [2, 2], 0, 16)}, DATA + bytes(4)),
    "beyond the end": safetensors({"w": _tensor("F32", [2, 2], 0, 16)}, DATA[:12]),
    "backwards": safetensors({"w": _tensor("F32", [2, 2], 16, 0)}, DATA),
    "negative": safetensors({"w": _tensor("F32", [2, 2], -16, 0)}, DATA),
    "offset 2^64": safetensors({"w": _tensor("F32", [2, 2], 2**64, 2**64 + 16)}, DATA),
    "shape larger than data": safetensors({"w": _tensor("F32", [2, 3], 0, 16)}, DATA),
    "shape overflowing": safetensors({"w": _tensor("F32", [2**62, 4], 0, 16)}, DATA),
    "shape of other rank": safetensors({"w": _tensor("F32", [4], 0, 16)}, DATA),
    "shape negative": safetensors({"w": _tensor("F32", [-2, -2], 0, 16)}, DATA),
    "dtype of equal size": safetensors({"w": _tensor("I32", [2, 2], 0, 16)}, DATA),
    "dtype of other size": safetensors({"w": _tensor("F16", [2, 4], 0, 16)}, DATA),
    "dtype unknown": safetensors({"w": _tensor("O", [2, 2], 0, 16)}, DATA),
    "dtype bfloat16": safetensors({"w": _tensor("BF16", [2, 4], 0, 16)}, DATA),
    "other name": safetensors({"v": _tensor("F32", [2, 2], 0, 16)}, DATA),
    "one more": safetensors(
        {"w": _tensor("F32", [2, 2], 0, 16), "v": _tensor("F32", [0], 16, 16)}, DATA
    ),
    "none": safetensors({}, b""),
    "empty file": b"",
    "length only": (8).to_bytes(8, "little"),
    "length 0": safetensors(b"", DATA),
    "length one too many": safetensors(b"{}", b"", 3),
    "length 2^63": safetensors({"w": _tensor("F32", [2, 2], 0, 16)}, DATA, 2**63),
    "length 2^64 - 1": safetensors({"w": _tensor("F32", [2, 2], 0, 16)}, DATA, 2**64 - 1),
    "length 2^40": safetensors({"w": _tensor("F32", [2, 2], 0, 16)}, DATA, 2**40),
    "header deep": safetensors(b"[" * 100_000, DATA),
    "header deep in a tensor": safetensors(b'{"w":' * 100_000, DATA),
    "header no JSON": safetensors(b"\xff\xfe", DATA),
    "header list": safetensors(b"[]", b""),
    "header NaN": safetensors(b'{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', DATA),
    "metadata no strings": safetensors(
        {"__metadata__": {"a": 1}, "w": _tensor("F32", [2, 2], 0, 16)}, DATA
    ),
}


def plant(folder: Path, content: bytes) -> None:
    """Put `content` in the optimizer's place, with a manifest of a [2, 2] float32 `w` = DATA."""
    entry = _entry_of_w()

    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][TENSORS[0]]["tensors"] = {"w": entry}
        manifest["files"][TENSORS[1]]["tensors"] = {}

    (folder / TENSORS[0]).write_bytes(content)
    (folder / TENSORS[1]).write_bytes(safetensors({}, b""))
    reseal(folder, change)


def _entry_of_w() -> dict[str, Any]:
    return {"dtype": "<f4", "shape": [2, 2]}


@pytest.mark.parametrize("content", HEADERS.values(), ids=HEADERS)
def test_a_crafted_safetensors_header(folder: Path, content: bytes) -> None:
    plant(folder, content)
    if content == HEADERS["good, for comparison"]:
        loaded = load_checkpoint(folder, CONFIG)
        expected = np.frombuffer(DATA, dtype="<f4").reshape(2, 2)
        assert loaded.snapshot.optimizer["w"].tobytes() == expected.tobytes()
        return
    assert TENSORS[0] in refused(folder)


def test_nothing_larger_than_the_files_is_allocated(folder: Path) -> None:
    plant(folder, safetensors({"w": _tensor("F32", [2**31, 4], 0, 2**35)}, DATA, None))
    reseal(folder, _set("files", TENSORS[0], "tensors", "w", "shape")([2**31, 4]))
    total = sum(path.stat().st_size for path in folder.iterdir())
    load_newest(folder.parent, CONFIG)  # imports and caches
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointCorrupt):
            load_checkpoint(folder, None)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000 + 4 * total
    finally:
        tracemalloc.stop()


def test_a_large_file_is_refused_before_it_is_read(folder: Path) -> None:
    for name in FILES:
        content = (folder / name).read_bytes()
        with open(folder / name, "r+b") as stream:
            stream.truncate(1 << 40)  # sparse: takes no space
        assert str(1 << 40) in refused(folder)
        (folder / name).write_bytes(content)


FUZZ = settings(
    max_examples=300,
    deadline=2000,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def survives(folder: Path, wanted: tuple[Any, ...]) -> None:
    """Loading gives the very state that was saved, or a typed error."""
    try:
        loaded = load_checkpoint(folder, CONFIG)
    except CheckpointError:
        return
    assert bits(loaded.snapshot)[1:] == wanted


@st.composite
def edits(draw: st.DrawFn, size: int) -> list[tuple[int, int, bytes]]:
    """A few places, how much is cut there, and what is put in."""
    tokens = st.sampled_from([b"{", b"}", b"[", b",", b"0", b"-", b'"', b"null", b"1e400", b"NaN"])
    edit = st.tuples(st.integers(0, size), st.integers(0, 40), tokens | st.binary(max_size=9))
    return draw(st.lists(edit, min_size=1, max_size=3))


def edited(content: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for position, cut, inserted in changes:
        content = content[:position] + inserted + content[position + cut :]
    return content


@FUZZ
@given(data=st.data())
def test_fuzzed_bytes_of_the_manifest(folder: Path, whole: Path, data: st.DataObject) -> None:
    content = (whole / "manifest.json").read_bytes()
    seal(folder, edited(content, data.draw(edits(len(content)))))
    survives(folder, bits(snapshot(5))[1:])


def _paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if not isinstance(value, dict | list):
        return [prefix]
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [prefix, *(path for key, inner in items for path in _paths(inner, (*prefix, key)))]


@FUZZ
@given(data=st.data())
def test_fuzzed_values_of_the_manifest(folder: Path, whole: Path, data: st.DataObject) -> None:
    manifest = json.loads((whole / "manifest.json").read_bytes())
    path = data.draw(st.sampled_from([path for path in _paths(manifest) if path]))
    where = manifest
    for key in path[:-1]:
        where = where[key]
    where[path[-1]] = data.draw(JSON)
    seal(folder, json.dumps(manifest).encode())
    survives(folder, bits(snapshot(5))[1:])


@FUZZ
@given(content=st.binary(max_size=300))
def test_fuzzed_from_nothing(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        decode_manifest(content)


@FUZZ
@given(data=st.data())
def test_fuzzed_safetensors_headers(folder: Path, data: st.DataObject) -> None:
    good = HEADERS["good, for comparison"]
    content = edited(good, data.draw(edits(len(good) - len(DATA))))
    if data.draw(st.booleans()):  # with a length that is right, to come further
        content = safetensors(content[8 : -len(DATA)], DATA)
    plant(folder, content)
    survives(folder, ({}, {"w": ("<f4", (2, 2), DATA)}))


@FUZZ
@given(header=st.dictionaries(st.sampled_from(["w", "v", "__metadata__"]), JSON, max_size=3))
def test_fuzzed_safetensors_values(folder: Path, header: dict[str, Any]) -> None:
    plant(folder, safetensors(header, DATA))
    survives(folder, ({}, {"w": ("<f4", (2, 2), DATA)}))
