"""Only the audited PySyncObj is let in, and it can no longer unpickle."""

import pickle
import socket
from pathlib import Path

import msgspec
import pytest

from manager.raft.pinned import VERSION, PlainData, syncobj, verify


def test_another_version_is_refused() -> None:
    source = Path(syncobj.__file__).read_bytes()
    with pytest.raises(ImportError, match="install pysyncobj=="):
        verify("0.3.18", source)


def test_another_source_is_refused() -> None:
    source = Path(syncobj.__file__).read_bytes()
    verify(VERSION, source)
    with pytest.raises(ImportError, match="not the audited"):
        verify(VERSION, source + b"\n")


def test_a_pickle_is_not_run() -> None:
    assert syncobj.pickle is PlainData
    with pytest.raises(msgspec.DecodeError):
        syncobj.pickle.loads(pickle.dumps(print))


def test_addresses_can_still_be_written() -> None:
    """The library replaces a function of the standard library for the whole process."""
    assert socket.inet_ntop(socket.AF_INET, b"\x7f\0\0\x01") == "127.0.0.1"
