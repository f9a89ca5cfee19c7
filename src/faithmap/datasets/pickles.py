"""Pickles of plain data, read without unpickling: nothing that such a file says is imported, called or set."""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_BYTES = 2**30
MAX_STEPS = 4_000_000  # a hundred bytes each at most: far more than 14,000 pictures take

# What Python 3 and numpy write into a pickle of bytes and of arrays of bytes. They are names here, never the things.
_KNOWN = {
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}


@dataclass
class ByteArray:
    """What a file says of a numpy array, or of a scalar, of single bytes."""

    dtype: str = ""
    """"u1" or "b1"."""
    data: bytes = b""


def read_pickle(path: Path) -> Any:
    """What a pickle of protocol 2 to 5 holds, where that is lists and tuples of bytes, texts, numbers and truth values.

    The file's opcodes are followed by a machine that knows no others than those of such data: it has no way to run
    code. An ``Unpickler`` with a list of allowed names would still let a file set attributes of what is on the list,
    and let it claim memory without bound.

    Args:
        path: the file; texts of Python 2 are read as bytes.

    Returns:
        The data; arrays of bytes as `ByteArray`.

    Raises:
        ValueError: the file names anything else, is cut off, or is too large.

    Examples:
        >>> import pickle, tempfile
        >>> file = Path(tempfile.mkdtemp()) / "data.pickle"
        >>> _ = file.write_bytes(pickle.dumps(([b"one", b"two"], [True])))
        >>> read_pickle(file)
        ([b'one', b'two'], [True])
        >>> _ = file.write_bytes(pickle.dumps(print))
        >>> read_pickle(file)
        Traceback (most recent call last):
        ...
        ValueError: data.pickle asks for 'builtins.print': a file of pictures and truth values does not; it was not run
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{path.name} has {size:,} bytes, more than {MAX_BYTES:,}")
    return _Machine(path.name, size).run(path.read_bytes())


@dataclass(frozen=True)
class _Name:
    """A thing that the file names."""

    module: str
    name: str


@dataclass(frozen=True)
class _Dtype:
    code: str


class _Machine:
    """The stack machine that a pickle is a program for, without the instructions that reach out of it."""

    def __init__(self, file: str, size: int) -> None:
        self.file = file
        self.budget = size  # of bytes made from texts: a file cannot ask for one large text again and again
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, program: bytes) -> Any:
        try:
            for step, (opcode, argument, _) in enumerate(pickletools.genops(program)):
                if step >= MAX_STEPS:
                    raise _RefusedError(f"has more than {MAX_STEPS:,} instructions")
                self._do(opcode.name, argument)
            (result,) = self.stack
            return result
        except _RefusedError as refused:
            raise ValueError(f"{self.file} {refused}") from None
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.file} is no whole pickle of plain data: {str(error)[:200]}") from error

    def _do(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        match opcode:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "NONE" | "BININT" | "BININT1" | "BININT2" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                stack.append(argument)
            case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BYTEARRAY8":
                stack.append(bytes(argument))
            case "BINSTRING" | "SHORT_BINSTRING":  # str of Python 2
                stack.append(argument.encode("latin-1"))
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode == "NEWTRUE")
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(self._pop_from(len(stack) - int(opcode[-1])))
            case "MARK":
                self.marks.append(len(stack))
            case "TUPLE":
                stack.append(self._pop_from(self.marks.pop()))
            case "APPENDS":
                self._extend(self._pop_from(self.marks.pop()))
            case "APPEND":
                self._extend((stack.pop(),))
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                module, _, name = argument.partition(" ")
                stack.append(_named(module, name))
            case "STACK_GLOBAL":
                module, name = self._pop_from(len(stack) - 2)
                stack.append(_named(module, name))
            case "REDUCE":
                function, arguments = self._pop_from(len(stack) - 2)
                stack.append(self._called(function, arguments))
            case "BUILD":
                state = stack.pop()
                _build(stack[-1], state)
            case _:
                raise _RefusedError(
                    f"holds the pickle instruction {opcode}, which pictures and truth values do not need"
                )

    def _pop_from(self, start: int) -> tuple[Any, ...]:
        if not 0 <= start <= len(self.stack):
            raise LookupError("its stack runs empty")
        popped = tuple(self.stack[start:])
        del self.stack[start:]
        return popped

    def _extend(self, values: tuple[Any, ...]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError("it appends to what is no list")
        self.stack[-1].extend(values)

    def _called(self, function: Any, arguments: Any) -> Any:
        """What the call would have given, for the few calls that are known."""
        match (function.name if isinstance(function, _Name) else None, arguments):
            case ("encode", (str(text), str(codec))) if codec in ("latin1", "latin-1"):
                self.budget -= len(text)
                if self.budget < 0:
                    raise _RefusedError("makes more bytes than it has")
                return text.encode("latin-1")
            case ("dtype", (str() | bytes() as code, *_)) if code in ("u1", "b1", b"u1", b"b1"):
                return _Dtype(code if isinstance(code, str) else code.decode())
            case ("_reconstruct", (_Name(name="ndarray"), *_)):
                return ByteArray()
            case ("_frombuffer" | "scalar", (bytes(data), _Dtype(code), *_) | (_Dtype(code), bytes(data))):
                return ByteArray(code, data)
        named = f"{function.module}.{function.name}" if isinstance(function, _Name) else type(function).__name__
        raise _RefusedError(f"calls {named} for something else than bytes; it was not run")


class _RefusedError(Exception):
    """The file asks for what it is not given."""


def _named(module: Any, name: Any) -> _Name:
    if (module, name) not in _KNOWN:
        asked = f"{module}.{name}"[:80]
        raise _RefusedError(f"asks for {asked!r}: a file of pictures and truth values does not; it was not run")
    return _Name(module, name)


def _build(made: Any, state: Any) -> None:
    """Fill what was made: of an array (version, shape, dtype, order, data)."""
    match made, state:
        case ByteArray(), (_, _, _Dtype(code), _, bytes(data)):
            made.dtype, made.data = code, data
        case _Dtype(), _:
            pass  # byte order and alignment, which single bytes have none of
        case _:
            raise _RefusedError(f"sets the state of {type(made).__name__}, which pictures and truth values do not need")
