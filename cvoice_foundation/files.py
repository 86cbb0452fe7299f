"""Reading JSON Lines with line numbers; writing files whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import jsonlines

from cvoice_foundation.errors import CVoiceError


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _strict_loads(text: str) -> Any:
    """``json.loads`` without NaN and Infinity, which no other JSON reader takes, and without half characters."""
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if "\\ud" in text.lower():
        # An escaped half of a surrogate pair is text to Python, and cannot be written to any file.
        try:
            json.dumps(content, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("half of a character (a lone surrogate)") from None
    return content


def read_json_lines(path: Path, what: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Reads a JSON Lines file of objects.

    Args:
        path: The file, UTF-8; a byte order mark and CRLF line ends are taken.
        what: What the file is, for error messages ("mask file", "items file").

    Yields:
        Line number (from 1) and object.

    Raises:
        CVoiceError: The file cannot be read, or a line is not a JSON object; the message names the line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline=None) as file:
            reader = jsonlines.Reader(file, loads=_strict_loads)
            number = 0
            while True:
                number += 1
                try:
                    line = reader.read(type=dict)
                except EOFError:
                    return
                except jsonlines.InvalidLineError as error:
                    reason = str(error).partition(" (line ")[0]
                    raise CVoiceError(
                        f"{path}, line {number}: not a JSON object ({reason}); a {what} has one JSON object a line"
                    ) from None
                yield number, line
    except OSError as error:
        raise CVoiceError(f"{path}: cannot read this {what}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise CVoiceError(f"{path}: not UTF-8 text; a {what} is JSON Lines in UTF-8") from None


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file under a temporary name beside ``path`` and moves it there, so that no half of it is ever seen.

    Args:
        path: Where the file goes; its folder must exist.
        content: Text (written as UTF-8) or bytes.

    Raises:
        CVoiceError: The folder cannot be written to.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    write_whole_by(path, lambda temporary: temporary.write_bytes(data))


def write_whole_by(path: Path, write: Callable[[Path], object]) -> None:
    """As :func:`write_whole`, for files too large to hold as bytes.

    Args:
        path: Where the file goes; its folder must exist.
        write: Writes the content to the temporary name that it is given.

    Raises:
        CVoiceError: The folder cannot be written to.
    """
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        # mkstemp makes private files; results are as readable as any other file of the user's.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        raise CVoiceError(f"{path}: cannot be written: {error.strerror or error}; choose another folder") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def dump_json_lines(lines: Iterable[dict[str, Any]]) -> str:
    """Objects as JSON Lines: one a line, UTF-8 characters as they are."""
    return "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)


def output_folder(path: Path) -> Path:
    """Makes sure that a folder for results exists and takes files, before long work begins.

    Args:
        path: The folder; made, with its parents, if it is not there.

    Returns:
        The same path.

    Raises:
        CVoiceError: It cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise CVoiceError(
            f"{path}: cannot write results there: {error.strerror or error}; choose another folder with --out"
        ) from None
    return path
