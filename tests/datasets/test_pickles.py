"""A pickle is read as pickle reads it where it is plain data, and runs nothing where it is not."""

from __future__ import annotations

import argparse
import contextlib
import functools
import operator
import os
import pickle
import random
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faithmap.datasets import pickles
from faithmap.datasets.pickles import ByteArray, read_pickle

PICTURES = [bytes(range(256)) * 2, b"\xff\xd8short", bytes(range(256)) * 2]
PLAIN = (PICTURES, [True, False, True])


def python2(pictures: list[bytes], truths: list[bool]) -> bytes:
    """What Python 2 wrote with protocol 2: texts of bytes, and memo entries for all of them."""
    out = b"\x80\x02]q\x00("
    for i, picture in enumerate(pictures, 1):
        head = b"U" + bytes([len(picture)]) if len(picture) < 256 else b"T" + struct.pack("<i", len(picture))
        out += head + picture + (b"q" + bytes([i]) if i % 2 else b"r" + struct.pack("<I", i))
    return out + b"e]q\xf0(" + b"".join(b"\x88" if truth else b"\x89" for truth in truths) + b"e\x86q\xf1."


def read(folder: Path, data: bytes) -> Any:
    (folder / "set.bin").write_bytes(data)
    return read_pickle(folder / "set.bin")


def plain(value: Any) -> Any:
    """Data with arrays of bytes as bytes, whichever reader they come from."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value))
    if isinstance(value, (np.ndarray, np.bool_)):
        return value.tobytes()
    return value.data if isinstance(value, ByteArray) else value


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "data",
    [
        PLAIN,
        [PICTURES, (1, 0, 70_000, -1, None, "text")],
        ([np.frombuffer(one, np.uint8) for one in PICTURES], [np.bool_(True), np.bool_(False)]),
        ([np.frombuffer(one, np.uint8)[:, None].copy() for one in PICTURES], [np.True_]),
        ([], ()),
        [[PICTURES[1]] * 3, [PICTURES[1], [(), ((),), (1, 2, 3, 4)]]],
        [b"x" * 70_000],
    ],
)
def test_plain_data_is_read_as_pickle_reads_it(tmp_path: Path, data: Any, protocol: int) -> None:
    written = pickle.dumps(data, protocol)
    assert plain(read(tmp_path, written)) == plain(pickle.loads(written)) == plain(data)


def test_numpy_of_either_name(tmp_path: Path) -> None:
    """Its inner module was renamed in version 2."""
    written = pickle.dumps([np.arange(9, dtype=np.uint8), np.True_], 2)
    names = {b"numpy.core.multiarray", b"numpy._core.multiarray"}
    assert sum(name in written for name in names) == 1
    for old in names:
        for new in names:
            array, truth = read(tmp_path, written.replace(old, new))
            assert (array, truth) == (ByteArray("u1", bytes(range(9))), ByteArray("b1", b"\1"))


def test_python_2(tmp_path: Path) -> None:
    written = python2(*PLAIN)
    assert read(tmp_path, written) == pickle.loads(written, encoding="bytes") == PLAIN


class Call:
    """Unpickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


def attacks(mark: Path) -> dict[str, tuple[Any, str]]:
    """What leaves a mark when it is unpickled, and what the message names."""
    script = f"open({str(mark)!r}, 'w')"
    return {
        "system": (Call(os.system, f"touch {mark}"), "system"),
        "eval": (Call(eval, script), "eval"),
        "exec": (Call(exec, script), "exec"),
        "open": (Call(open, str(mark), "w"), "open"),
        "process": (Call(subprocess.check_call, ["touch", str(mark)]), "check_call"),
        "chain": (Call(functools.partial(eval, script)), "functools.partial"),
        "method": (Call(operator.methodcaller("touch"), mark), "operator.methodcaller"),
        "path": (Call(Path.touch, mark), "getattr|pathlib"),
        "in a picture": (([Call(eval, script), b"x"], [True]), "eval"),
        "in a truth value": (([b"x", b"y"], [Call(eval, script)]), "eval"),
        "deep": ([[[[(Call(eval, script),)]]]], "eval"),
        "state": (Call(argparse.Namespace, state={"a": Call(eval, script)}), "argparse.Namespace"),
        "items": ({"a": Call(eval, script)}, "eval|EMPTY_DICT"),
        "array": (np.array([Call(eval, script)], dtype=object), "dtype|eval"),
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", attacks(Path("mark")))
def test_nothing_runs(tmp_path: Path, name: str, protocol: int) -> None:
    mark = tmp_path / "mark"
    attack, message = attacks(mark)[name]
    written = pickle.dumps(attack, protocol)
    with pytest.raises(ValueError, match=rf"^set\.bin .*({message})"):
        read(tmp_path, written)
    assert not mark.exists()
    pickle.loads(written)
    assert mark.exists(), "the attack is none"


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


ENCODE = b"c_codecs\nencode\n"
DTYPE = b"cnumpy\ndtype\n"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"(S'touch mark'\nios\nsystem\n", "STRING"),
        (b"(Vtouch mark\nios\nsystem\n", "UNICODE"),
        (b"(ios\nsystem\n", "instruction INST"),
        (b"(cos\nsystem\no", "'os.system'"),
        (b"(" + ENCODE + b"o", "instruction OBJ"),
        (DTYPE + b")\x81", "instruction NEWOBJ"),
        (DTYPE + b"))\x92", "instruction NEWOBJ_EX"),
        (b"}", "instruction EMPTY_DICT"),
        (b"\x82\x01", "instruction EXT1"),
        (b"\x8c\x01xQ", "instruction BINPERSID"),
        (b"Px\n", "instruction PERSID"),
        (text("_codecs") + text("encode.__class__") + b"\x93", "'_codecs.encode.__class__'"),
        (text("numpy") + text("dtype.__base__") + b"\x93", "'numpy.dtype.__base__'"),
        (b"]" + text("encode") + b"\x93", "no whole pickle"),
        # Setting what is on the list
        (ENCODE + b"N)\x86b", "sets the state of _Name"),
        (ENCODE + b")b", "sets the state of _Name"),
        (b"])b", "sets the state of list"),
        (ARRAY + b")b", "sets the state of ByteArray"),
        (ARRAY + b"(K\x01)" + DTYPE + text("O") + b"\x85R" + b"\x89]tb", "calls numpy.dtype"),
        # Calling what is on the list for something else
        (ENCODE + text("x") + text("zlib") + b"\x86R", "calls _codecs.encode"),
        (ENCODE + text("x") + b"\x85R", "calls _codecs.encode"),
        (ENCODE + b"C\x01x" + text("latin1") + b"\x86R", "calls _codecs.encode"),
        (ENCODE + text("\u20ac") + text("latin1") + b"\x86R", "no whole pickle"),
        (DTYPE + text("O") + b"\x85R", "calls numpy.dtype"),
        (DTYPE + text("f8") + b"\x85R", "calls numpy.dtype"),
        (b"cnumpy.core.multiarray\nscalar\n" + DTYPE + b"C\x01x\x86R", "calls numpy.core.multiarray.scalar"),
        (b"cnumpy.core.multiarray\n_reconstruct\n" + ENCODE + b")C\x01b\x87R", "calls numpy.core.multiarray._recon"),
        (b"cnumpy\nndarray\nK\x01\x85R", "calls numpy.ndarray"),
        (text("x") + b")R", "calls str"),
        (b")" + b")R", "calls tuple"),
        # Damage
        (b"R", "its stack runs empty"),
        (b"e", "no whole pickle"),
        (b"t", "no whole pickle"),
        (b"Na", "no whole pickle"),
        (b")Na", "appends to what is no list"),
        (b"h\x05", "no whole pickle"),
        (b"(((", "no whole pickle"),
        (b"]]", "no whole pickle"),
        (b"", "no whole pickle"),
        (b"\x8d" + struct.pack("<Q", 2**62), "no whole pickle"),
        (b"\x8e" + struct.pack("<Q", 2**40), "no whole pickle"),
        (b"\x96" + struct.pack("<Q", 2**40), "no whole pickle"),
        (b"c" + b"a" * 5000 + b"\nb\n", "asks for 'a{80}'"),
    ],
)
def test_other_programs_are_refused(tmp_path: Path, program: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^set\.bin .*({message})") as caught:
        read(tmp_path, b"\x80\x04" + program + b".")
    assert len(str(caught.value)) < 400


def test_protocols_0_and_1_are_refused(tmp_path: Path) -> None:
    for protocol in (0, 1):
        with pytest.raises(ValueError, match="pickle instruction"):
            read(tmp_path, pickle.dumps(PLAIN, protocol))


def test_what_is_no_pickle_at_all(tmp_path: Path) -> None:
    for data in (b"", b"\xff\xd8\xff\xe0 a picture", b"gallery,probe,genuine\n", b"PK\x03\x04"):
        with pytest.raises(ValueError, match=r"^set\.bin "):
            read(tmp_path, data)


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    small = ([b"ab", b"c" * 260], [True])
    for written in (python2(*small), pickle.dumps(small, 4), pickle.dumps([np.arange(9, dtype=np.uint8)], 2)):
        for end in range(len(written)):
            with pytest.raises(ValueError, match="no whole pickle"):
                read(tmp_path, written[:end])


def test_damaged_bytes_give_plain_data_or_an_error(tmp_path: Path) -> None:
    def is_plain(value: Any, depth: int = 0) -> bool:
        if isinstance(value, (list, tuple)) and depth < 6:
            return all(is_plain(one, depth + 1) for one in value)
        return value is None or type(value) in (
            bool,
            int,
            str,
            bytes,
            list,
            tuple,
            ByteArray,
            pickles._Name,
            pickles._Dtype,
        )

    chance = random.Random(0)
    sources = [python2([b"ab", b"c"], [True]), pickle.dumps(([b"ab", b"c"], [True]), 2), pickle.dumps(np.True_, 2)]
    read_ones = 0
    for _ in range(3000):
        data = bytearray(chance.choice(sources))
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with contextlib.suppress(ValueError):  # and nothing else
            assert is_plain(pickles._Machine("set.bin", len(data)).run(bytes(data)))
            read_ones += 1
    assert read_ones > 100


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by the file: of memo indices, of texts encoded again and again, of lists, of depth."""
    assert read(tmp_path, b"\x80\x02]r\xff\xff\xff\xff.") == []
    big = b"X" + struct.pack("<I", 10_000) + b"x" * 10_000 + b"q\x00"
    again = b"(" + (ENCODE + b"h\x00" + text("latin1") + b"\x86R") * 1000 + b"t"
    with pytest.raises(ValueError, match="makes more bytes than it has"):
        read(tmp_path, b"\x80\x02" + big + again + b"\x86.")
    deep = read(tmp_path, b"\x80\x02N" + b"\x85" * 200_000 + b".")
    assert isinstance(deep, tuple)
    itself = read(tmp_path, b"\x80\x02]q\x00h\x00a.")
    assert itself[0] is itself
    monkeypatch.setattr(pickles, "MAX_STEPS", 1000)
    with pytest.raises(ValueError, match="more than 1,000 instructions"):
        read(tmp_path, b"\x80\x02(" + b"]" * 1000 + b"t.")
    monkeypatch.setattr(pickles, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"2,000 bytes, more than 1,000"):
        read(tmp_path, bytes(2000))
