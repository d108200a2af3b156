"""The same samples, whatever they come in: files, arrays, iterables, readers, scripts, saved inputs."""

from __future__ import annotations

import base64
import copy
import gc
import io
import json
import os
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from nets import RESNET, build, cli, done, images, infer, tiny, weights, written

import ocnna_onnx
from ocnna_onnx.data import rows as rows_module
from ocnna_onnx.data import spool
from ocnna_onnx.data.open import open_data
from ocnna_onnx.data.rows import Lazy, remembered, settled, subset
from ocnna_onnx.data.samples import Samples, choose, probe_values
from ocnna_onnx.model.graph import Graph

Array = np.ndarray[Any, np.dtype[Any]]

X = images(30)
LABELS = np.arange(30) % 5
PIECES = (1, 4, 7, 2, 11, 5)


def graph(inputs: str) -> Graph:
    return Graph(build(f"g ({inputs}) => (float[N] out) {{ out = Identity(w) }}", {"w": np.zeros(1, np.float32)}))


def opened(source: Any, count: int | None = 12, inputs: str = "float[N,1,8,8] x", seed: int = 0) -> Samples:
    return open_data(source, graph(inputs), {}, count, seed)


def pieces(labelled: bool = True) -> Iterator[dict[str, Any]]:
    """The samples in batches of odd sizes."""
    start = 0
    for size in PIECES:
        part = slice(start, start + size)
        yield {"x": X[part], "y": LABELS[part]} if labelled else {"x": X[part]}
        start += size


class Reader:
    """A calibration data reader as users write it."""

    def __init__(self, feeds: list[dict[str, Any]]) -> None:
        self.feeds, self.place = feeds, 0

    def get_next(self) -> dict[str, Any] | None:
        self.place += 1
        return self.feeds[self.place - 1] if self.place <= len(self.feeds) else None


class Rewindable(Reader):
    def rewind(self) -> None:
        self.place = 0


class Tensor:
    """As much of a framework's tensor as is used."""

    def __init__(self, array: Array) -> None:
        self.array, self.shape, self.moved = array, array.shape, False

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        self.moved = True
        return self

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        assert self.moved
        return self.array


class Loader:
    """As a DataLoader: (images, labels) per batch, with a length."""

    def __iter__(self) -> Iterator[list[Tensor]]:
        return ([Tensor(np.asarray(part["x"])), Tensor(np.asarray(part["y"]))] for part in pieces())

    def __len__(self) -> int:
        return len(PIECES)


class Dataset:
    """As a data set of a framework: a length, and pairs by number, without an end of its own."""

    def __len__(self) -> int:
        return 30

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return Tensor(X[number % 30]), int(LABELS[number % 30])


def npy_text(array: Array) -> str:
    with io.BytesIO() as stream:
        np.save(stream, array)
        return base64.b64encode(stream.getvalue()).decode()


def saved(folder: Path, labelled: bool = True) -> Path:
    """What `polygraphy run --save-inputs` writes (checked against polygraphy 0.53.6)."""
    feeds = [
        {k: {"array": npy_text(np.asarray(v)), "polygraphy_class": "ndarray"} for k, v in part.items()}
        for part in pieces(labelled)
    ]
    (folder / "saved.json").write_text(json.dumps(feeds, indent=4))
    return folder / "saved.json"


def script(folder: Path, body: str, name: str = "loader.py") -> Path:
    (folder / name).write_text(body)
    return folder / name


def npz(folder: Path, save: Callable[..., None] = np.savez) -> Path:
    save(folder / "d.npz", x=X, y=LABELS)
    return folder / "d.npz"


def mapped(folder: Path) -> dict[str, Any]:
    np.save(folder / "x.npy", X)
    return {"x": np.load(folder / "x.npy", mmap_mode="r"), "y": LABELS}


def from_script(folder: Path) -> str:
    np.save(folder / "x.npy", X)
    body = """
    import pathlib
    import numpy as np

    def batches():
        x = np.load(pathlib.Path(__file__).parent / "x.npy")
        for k in range(0, 30, 7):
            yield {"x": x[k : k + 7], "y": np.arange(k, min(k + 7, 30)) % 5}
    """.replace("\n    ", "\n")
    return f"{script(folder, body)}:batches"


def folder_of_saved(folder: Path) -> Path:
    for k, feed in enumerate(json.loads(saved(folder).read_text())):
        (folder / f"{k:010}.json").write_text(json.dumps(feed))
    (folder / "saved.json").unlink()
    return folder


WAYS: dict[str, Callable[[Path], Any]] = {
    "npz": npz,
    "compressed npz": lambda folder: npz(folder, np.savez_compressed),
    "mapped array": mapped,
    "generator": lambda folder: pieces(),
    "generator function": lambda folder: pieces,
    "list of dicts": lambda folder: list(pieces()),
    "one by one": lambda folder: [{"x": x, "labels": y} for x, y in zip(X, LABELS, strict=True)],
    "pairs": lambda folder: [(p["x"], p["y"]) for p in pieces()],
    "a dict and labels": lambda folder: [({"x": p["x"]}, p["y"]) for p in pieces()],
    "pairs one by one": lambda folder: zip(X, LABELS, strict=True),
    "loader of tensors": lambda folder: Loader(),
    "data set of pairs": lambda folder: Dataset(),
    "float64": lambda folder: ({"x": p["x"].astype(np.float64), "y": p["y"]} for p in pieces()),
    "reader": lambda folder: Reader(list(pieces())),
    "reader that rewinds": lambda folder: Rewindable(list(pieces())),
    "polygraphy": saved,
    "folder of polygraphy": folder_of_saved,
    "script": from_script,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("count", [12, 30, 99])
def test_the_same_feeds_bit_for_bit(tmp_path: Path, way: Callable[[Path], Any], count: int) -> None:
    wanted, found = opened({"x": X, "y": LABELS}, count), opened(way(tmp_path), count)
    assert found.count == wanted.count == min(count, 30)
    np.testing.assert_array_equal(found.labels, wanted.labels)
    for _ in range(2):  # a second pass gives the same
        for (a, n), (b, m) in zip(wanted.batches(5), found.batches(5), strict=True):
            assert n == m
            assert a.keys() == b.keys()
            assert a["x"].dtype == b["x"].dtype
            assert a["x"].tobytes() == b["x"].tobytes()
            assert type(b["x"]) is np.ndarray


def test_an_npy_gives_the_same_feeds(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    wanted = opened(X)
    for stored in (X, np.asfortranarray(X)):
        np.save(tmp_path / "x.npy", stored)
        for feed, other in zip(opened(tmp_path / "x.npy").batches(5), wanted.batches(5), strict=True):
            assert feed[0]["x"].tobytes() == other[0]["x"].tobytes()
    loose = list(X)
    np.testing.assert_array_equal(opened(loose).arrays["x"], wanted.arrays["x"])
    np.testing.assert_array_equal(opened([[x] for x in X]).arrays["x"], wanted.arrays["x"])


def test_pruning_is_the_same_from_all(tmp_path: Path) -> None:
    found = [ocnna_onnx.prune(tiny(), data=way(tmp_path), samples=12, threads=1) for way in (npz, saved, from_script)]
    found.append(ocnna_onnx.prune(tiny(), data=pieces(), samples=12, threads=1))
    found.append(ocnna_onnx.prune(tiny(), data={"x": X, "y": LABELS}, samples=12, threads=1))
    assert len({r.model.SerializeToString() for r in found}) == 1
    assert len({json.dumps(r.report["accuracy"]) for r in found}) == 1


def test_classes_are_balanced_in_what_is_streamed() -> None:
    found = opened(pieces(), 10)
    assert found.labels is not None
    assert np.bincount(found.labels).tolist() == [2] * 5


def test_a_reader_that_was_used_up_is_rewound() -> None:
    reader = Rewindable(list(pieces()))
    assert [opened(reader).count for _ in range(2)] == [12, 12]
    assert reader.get_next() is not None


# --- not everything is read


def test_an_endless_source_is_read_as_far_as_it_takes() -> None:
    seen = []

    def endless() -> Iterator[Array]:
        while True:
            seen.append(1)
            yield images(7, seed=len(seen))

    found = opened(endless, 3)
    assert found.count == 3
    assert "the first 48 samples of more" in found.source
    assert len(seen) == 7
    one_by_one = (x for k in range(1, 9) for x in images(7, seed=k))
    for (a, _), (b, _) in zip(found.batches(3), opened(one_by_one, 3).batches(3), strict=True):
        assert a["x"].tobytes() == b["x"].tobytes()
    assert "of more" not in opened(iter([X[:3]]), 3).source
    exact = opened((x for x in images(48)), 3)
    assert "of more" not in exact.source


def test_no_more_bytes_than_allowed_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "READ_BYTES", 20 * X[0].nbytes)
    found = opened(pieces(), 25)
    assert found.count == 20
    assert "first 20 samples of more" in found.source


def test_temporary_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    found = opened(pieces())
    kept = remembered(Lazy((4, 3), np.dtype(np.float32), lambda k: np.ones((len(k), 3), np.float32)))
    assert kept[:].sum() == kept[:].sum() == 12
    assert next(found.batches(4))[0]["x"].shape == (4, 1, 8, 8)
    del found, kept
    gc.collect()
    assert not list(tmp_path.iterdir())
    if before:
        assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ocnna_onnx.DataError):
        opened([X[:3], X[:, :, :4]])
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_memory_stays_bounded(tmp_path: Path) -> None:
    big = np.lib.format.open_memmap(tmp_path / "big.npy", "w+", np.float64, (1600, 1, 96, 96))  # 118 MB
    for k in range(0, 1600, 100):
        big[k : k + 100] = np.random.default_rng(k).standard_normal((100, 1, 96, 96))
    del big
    with (tmp_path / "big.npz").open("wb") as stream:
        np.savez(stream, x=np.load(tmp_path / "big.npy", mmap_mode="r"))

    def endless() -> Iterator[Array]:
        while True:
            yield np.ones((10, 1, 96, 96))

    for source in (tmp_path / "big.npy", tmp_path / "big.npz", endless):
        tracemalloc.start()
        found = opened(source, 500, "float[N,1,96,96] x")
        probe_values(found)
        total = sum(float(feed["x"][0, 0, 0, 0]) for feed, _ in found.batches(16))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert np.isfinite(total)
        assert peak < 12e6, source


def test_rows_that_are_kept_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def make(numbers: Any) -> Array:
        made.extend(numbers.tolist())
        return np.repeat(numbers[:, None], 3, axis=1).astype(np.float32)

    lazy = Lazy((20, 3), np.dtype(np.float32), make)
    kept = remembered(lazy)
    for index in (np.array([3, 3, 1]), slice(0, 5), np.array([-1])):
        np.testing.assert_array_equal(kept[index][:, 0], np.arange(20)[index])
    assert sorted(set(made)) == [0, 1, 2, 3, 4, 19]
    made.clear()
    np.testing.assert_array_equal(subset(subset(kept, np.array([4, 1, 19])), np.array([2, 0]))[:][:, 0], [19, 4])
    assert not made
    assert isinstance(settled(lazy), np.ndarray)
    monkeypatch.setattr(rows_module, "IN_MEMORY", 10)
    monkeypatch.setattr(rows_module, "ON_DISK", 10)
    assert settled(lazy) is lazy


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **kwargs: Full())
    with pytest.raises(ocnna_onnx.UsageError, match=r"No space left.*TMPDIR"):
        opened(pieces())
    kept = remembered(Lazy((4, 3), np.dtype(np.float32), lambda k: np.ones((len(k), 3), np.float32)))
    assert kept[:].sum() == kept[:].sum() == 12  # what cannot be kept is made again


# --- what does not fit is named


def bad(index: int, value: float) -> Array:
    x = X.copy()
    x[index, 0, 3, 3] = value
    return x


MISFITS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "another shape": (lambda: [X[:3], X[:2, :, :7]], ("sample 3", "[N, 1, 8, 8]", "[2, 1, 7, 8]")),
    "another shape than the first": (
        lambda: [{"x": np.zeros((1, 1, s, 8), np.float32)} for s in (8, 8, 9)],
        ("sample 2", "[1, 9, 8]", "[1, 8, 8]"),
    ),
    "nan": (lambda: [bad(20, np.nan)[k : k + 6] for k in range(0, 30, 6)], ("sample 20", "NaN")),
    "integers": (lambda: [np.zeros((2, 1, 8, 8), np.int64)], ("sample 0", "float32", "int64")),
    "a missing input": (lambda: [{"x": X[:2], "z": X[:2]}], ("sample 0", "'z'")),
    "no input": (lambda: [{}], ("sample 0", "'x'", "missing")),
    "too many arrays": (lambda: [(X[:2], LABELS[:2], X[:2])], ("3 arrays", "1 inputs")),
    "labels that stop": (lambda: [(X[:2], LABELS[:2]), (X[:2],)], ("sample 2", "labels")),
    "labels that start": (lambda: [(X[:2],), (X[:2], LABELS[:2])], ("sample 2", "labels")),
    "labels that are fewer": (lambda: [(X[:3], LABELS[:2])], ("2 labels for 3",)),
    "labels that are words": (lambda: [{"x": X[0], "y": "cat"}], ("labels", "integers")),
    "labels that are masks": (lambda: [{"x": X[:2], "y": np.zeros((2, 8, 8), int)}], ("labels", "[2, 8, 8]")),
    "a ragged list": (lambda: [{"x": [[1.0], [1.0, 2.0]]}], ("no array",)),
    "nothing": (list, ("no samples",)),
    "a reader of nothing": (lambda: Reader([]), ("no samples",)),
    "an empty batch": (lambda: [X[:0]], ("no samples",)),
}


@pytest.mark.parametrize(("make", "words"), MISFITS.values(), ids=MISFITS)
def test_items_that_do_not_fit(make: Callable[[], Any], words: tuple[str, ...]) -> None:
    inputs = "float[N,1,H,8] x" if any("[1, 9, 8]" in w for w in words) else "float[N,1,8,8] x"
    with pytest.raises(ocnna_onnx.DataError) as caught:
        opened(make(), inputs=inputs)
    for word in words:
        assert word in str(caught.value)


def test_what_is_read_late_is_checked_then(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", bad(20, np.inf))
    found = opened(tmp_path / "x.npy", 30)
    first, _ = next(found.batches(8))
    assert np.isfinite(first["x"]).all()
    with pytest.raises(ocnna_onnx.DataError, match="sample 20 has 1 values"):
        list(found.batches(8))
    chosen = choose(opened(tmp_path / "x.npy", 30), 29, 0)
    with pytest.raises(ocnna_onnx.DataError, match="sample 20 "):  # the number in the file, not among the chosen
        list(chosen.batches(8))
    np.save(tmp_path / "ints.npy", np.full((5, 3), 300))
    with pytest.raises(ocnna_onnx.DataError, match="sample 0 has 3 values"):
        list(opened(tmp_path / "ints.npy", inputs="uint8[N,3] x").batches(2))


def test_an_array_of_another_name_is_said(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", pixels=X)
    assert "'pixels' taken for input 'x'" in opened(tmp_path / "d.npz").source
    assert "'pixels' taken for input 'x'" in opened({"pixels": X}).source
    assert "'pixels' taken for input 'x'" in opened({"pixels": x} for x in X).source
    np.savez(tmp_path / "d.npz", x=X)
    assert opened(tmp_path / "d.npz").source == str(tmp_path / "d.npz")


def test_targets_that_are_no_classes_are_left_out() -> None:
    for target in (np.zeros((8, 8), int), {"boxes": [1.0, 2.0]}, [[1.0], [1.0, 2.0]], 0.5, "cat"):
        for items in ([(x, target) for x in X], [({"x": x}, target) for x in X]):
            found = opened(items, 30)
            assert found.labels is None
            assert "no class numbers" in found.source
            np.testing.assert_array_equal(found.arrays["x"], X)


def test_errors_of_the_users_own_iterable_stay_theirs() -> None:
    def broken() -> Iterator[Array]:
        yield X[:2]
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        opened(broken())


# --- several inputs


TWO = "float[N,1,8,8] a, float[N,3] b, float[3,5] table, int64 step"


def test_several_inputs_and_some_without_a_sample_axis() -> None:
    b, table = images(30, (3,)), np.ones((3, 5), np.float32)
    whole = {"a": X, "b": b, "table": table, "step": np.int64(2), "y": LABELS}
    wanted = opened(whole, inputs=TWO)
    parts = [{**whole, **{n: whole[n][k : k + 3] for n in ("a", "b", "y")}} for k in range(0, 30, 3)]
    found = opened(iter(parts), inputs=TWO)
    tuples = opened([(p["a"], p["b"], table, np.int64(2), p["y"]) for p in parts], inputs=TWO)
    for samples in (found, tuples):
        np.testing.assert_array_equal(samples.labels, wanted.labels)
        for (one, _), (other, _) in zip(wanted.batches(5), samples.batches(5), strict=True):
            assert {n: v.tobytes() for n, v in one.items()} == {n: v.tobytes() for n, v in other.items()}
    assert not found.notes
    parts[4]["table"] = table + 1
    assert "'table' has no sample axis and changes" in opened(iter(parts), inputs=TWO).notes[0]


# --- scripts


def test_a_script_has_a_default_function(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    body = "import os, helper\ndef load_data():\n    return [{'x': x} for x in helper.x]\n"
    (tmp_path / "helper_of_test.py").write_text(
        "import os, numpy as np\nx = np.load(os.path.join(os.path.dirname(__file__), 'x.npy'))\n"
    )
    path = script(tmp_path, body.replace("helper", "helper_of_test"))
    model = written(tmp_path, tiny())
    done("prune", model, tmp_path / "out.onnx", "--data", path, "--samples", 5)
    assert opened(str(path)).count == 12
    assert opened(path).count == 12


SCRIPTS: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "an error in the function": (
        "def load_data():\n    x = 1\n    yield {'x': 1 / 0}\n",
        4,
        ("line 3", "ZeroDivision"),
    ),
    "an error while loading": ("import os\nraise ValueError('no data set here')\n", 4, ("line 2", "no data set here")),
    "a missing module": ("import surely_not_there\n", 4, ("line 1", "surely_not_there")),
    "bad syntax": ("def load_data(:\n", 4, ("line 1", "SyntaxError")),
    "it leaves": ("import sys\nsys.exit(0)\n", 4, ("line 2", "SystemExit")),
    "no such function": ("def samples():\n    return []\n", 2, ("load_data", "it has samples")),
    "no function": ("x = 1\n", 2, ("load_data", "it has none")),
    "no iterable": ("def load_data():\n    return 3\n", 4, ("load_data() gave a int",)),
    "nothing": ("def load_data():\n    return []\n", 4, ("no samples",)),
    "an error later": (
        "import numpy as np\ndef load_data():\n    yield np.zeros((2, 1, 8, 8), 'f')\n    raise OSError('gone')\n",
        4,
        ("line 4", "gone"),
    ),
}


@pytest.mark.parametrize(("body", "code", "words"), SCRIPTS.values(), ids=SCRIPTS)
def test_scripts_that_fail(tmp_path: Path, body: str, code: int, words: tuple[str, ...]) -> None:
    path = script(tmp_path, body)
    result = cli("prune", written(tmp_path, tiny()), tmp_path / "out.onnx", "--data", path)
    assert result.exit_code == code
    assert len(result.stderr.splitlines()) == 1
    for word in ("loader.py", *words):
        assert word in result.stderr
    assert not (tmp_path / "out.onnx").exists()
    assert not list(tmp_path.rglob("*.pyc"))
    assert str(tmp_path) not in sys.path


def test_a_function_that_is_not_there(tmp_path: Path) -> None:
    path = script(tmp_path, "def load_data():\n    return []\n")
    with pytest.raises(ocnna_onnx.UsageError, match="no function 'other'"):
        opened(f"{path}:other")
    with pytest.raises(ocnna_onnx.UsageError, match="no such file"):
        opened(str(tmp_path / "gone.py"))
    with pytest.raises(ocnna_onnx.UsageError, match="no such file"):
        opened(f"{tmp_path / 'gone.py'}:load")


# --- polygraphy


def test_older_spellings_of_saved_inputs(tmp_path: Path) -> None:
    path, x = tmp_path / "saved.json", X[:2]
    with io.BytesIO() as stream:
        np.savez(stream, x)
        zipped = base64.b64encode(stream.getvalue()).decode()
    with io.BytesIO() as stream:
        np.save(stream, x)
        latin = stream.getvalue().decode("latin-1")
    array = {"array": npy_text(x), "polygraphy_class": "ndarray"}
    for entry in (
        array,
        {"array": npy_text(x), "__polygraphy_encoded_ndarray": "polygraphy_serialized_json_type"},
        {"array": zipped, "__polygraphy_encoded_ndarray": "polygraphy_serialized_json_type"},
        {"array": latin, "polygraphy_class": "ndarray"},
        {"values": array, "polygraphy_class": "LazyArray"},
        {"array": array, "shape": [2, 1, 8, 8], "polygraphy_class": "FormattedArray"},
        x.astype(float).tolist(),
    ):
        for content in ([{"x": entry}], {"x": entry}):
            path.write_text(json.dumps(content))
            np.testing.assert_array_equal(opened(path).arrays["x"], x)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("", "not readable"),
        ("[{", "not readable"),
        ("3", "item 0 is no feed"),
        ("[[1, 2]]", "item 0 is no feed"),
        ("[]", "no samples"),
        ('[{"x": {"array": "AAAA", "polygraphy_class": "ndarray"}}]', "damaged"),
        ('[{"x": {"tensor": "AAAA", "polygraphy_class": "Tensor"}}]', "PyTorch"),
        ('{"lst": [], "polygraphy_class": "RunResults"}', "RunResults"),
        ('{"x": "text"}', "x"),
    ],
)
def test_json_that_holds_no_feeds(tmp_path: Path, content: str, word: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ocnna_onnx.DataError, match=r"bad\.json") as caught:
        opened(tmp_path / "bad.json")
    assert word in str(caught.value)


# --- the reverse


def test_a_reader_for_the_quantizer(tmp_path: Path) -> None:
    reader = ocnna_onnx.calibration_reader(tiny(), data={"x": X, "y": LABELS}, samples=13, batch=4)
    feeds = []
    while (feed := reader.get_next()) is not None:
        feeds.append(feed["x"])
    assert [len(f) for f in feeds] == [4, 4, 4, 1]
    assert len(reader) == 4
    np.testing.assert_array_equal(np.concatenate(feeds), opened({"x": X, "y": LABELS}, 13).arrays["x"])
    assert reader.get_next() is None
    twin = copy.deepcopy(reader)
    reader.rewind()
    np.testing.assert_array_equal(reader.get_next()["x"], feeds[0])  # type: ignore[index]
    assert twin.get_next() is None
    assert [f["x"].tobytes() for f in reader] == [f.tobytes() for f in feeds]
    reader.set_range(1, 3)
    assert [f["x"].tobytes() for f in reader] == [f.tobytes() for f in feeds[1:3]]
    again = opened(ocnna_onnx.calibration_reader(tiny(), data=X, samples=30, batch=7), 30)
    np.testing.assert_array_equal(again.arrays["x"], X)


def test_a_reader_of_a_fixed_batch() -> None:
    model = tiny()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    feeds = [f["x"] for f in ocnna_onnx.calibration_reader(model, data=X[:6])]
    assert [f.shape[0] for f in feeds] == [4, 4]
    np.testing.assert_array_equal(feeds[1], X[[4, 5, 5, 5]])


def test_a_readers_numbers_are_checked() -> None:
    for options in ({"batch": 0}, {"samples": 0}, {"seed": -1}, {"batch": "x"}):
        with pytest.raises(ocnna_onnx.UsageError):
            ocnna_onnx.calibration_reader(tiny(), data=X, **options)


@pytest.mark.filterwarnings("ignore")
def test_onnxruntime_quantizes_with_it(tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    reader = ocnna_onnx.calibration_reader(RESNET, data="digits", samples=32, batch=8)
    assert isinstance(reader, CalibrationDataReader)
    quantize_static(str(RESNET), str(tmp_path / "int8.onnx"), reader)
    feed = next(iter(reader))
    before, after = (infer(p, feed)[0].argmax(axis=1) for p in (RESNET, tmp_path / "int8.onnx"))
    assert (before == after).mean() >= 0.75
    assert "QuantizeLinear" in {n.op_type for n in onnx.load(tmp_path / "int8.onnx").graph.node}


def test_a_model_of_several_inputs_in_a_reader() -> None:
    text = "g (float[N,3] a, float[2,5] t) => (float[N,3] y) { y = Add(a, w) }"
    model = build(text, weights({"w": (3,)}))
    table = np.ones((2, 5), np.float32)
    feeds = list(ocnna_onnx.calibration_reader(model, data={"a": images(5, (3,)), "t": table}, batch=2))
    assert [{n: v.shape for n, v in f.items()} for f in feeds][-1] == {"a": (1, 3), "t": (2, 5)}
