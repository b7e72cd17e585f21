"""A certificate and its key stay a pair, wherever the power fails between two writes."""

import threading
from pathlib import Path

import pytest

from swarmapi.durable import move_durably, write_durably
from swarmapi.errors import Internal
from swarmapi.identity import TLSMaterial
from swarmapi.keyring import Keyring, open_key, seal_key
from swarmapi.tlsfiles import TLSFiles
from tests.fakes.pki import CertificateAuthority

AUTHORITY = CertificateAuthority()
OLD, NEW = AUTHORITY.issue("a"), AUTHORITY.issue("a")
STEPS = 4


class PowerCutError(Exception):
    """Nothing was done of this step, nor after it."""


class Power:
    """Durable writes of which the first `steps` are done."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def _spend(self) -> None:
        if self.steps == 0:
            raise PowerCutError
        self.steps -= 1

    def write(self, path: Path, body: bytes) -> None:
        self._spend()
        write_durably(path, body)

    def move(self, source: Path, target: Path) -> None:
        self._spend()
        move_durably(source, target)


def save(directory: Path, material: TLSMaterial, steps: int) -> None:
    power = Power(steps)
    TLSFiles(directory, power.write, power.move).save(material)


@pytest.mark.parametrize("steps", range(STEPS + 1))
def test_a_pair_is_the_old_or_the_new_one_after_a_power_cut(tmp_path: Path, steps: int) -> None:
    save(tmp_path, OLD, STEPS)
    if steps < STEPS:
        with pytest.raises(PowerCutError):
            save(tmp_path, NEW, steps)
    else:
        save(tmp_path, NEW, steps)
    files = TLSFiles(tmp_path)
    assert files.read() == (OLD if steps < STEPS - 1 else NEW)
    third = AUTHORITY.issue("a")
    files.save(third)
    assert files.read() == third, "and what was left does not stand in the way of the next one"


@pytest.mark.parametrize("steps", range(STEPS))
def test_a_first_pair_is_there_or_not(tmp_path: Path, steps: int) -> None:
    with pytest.raises(PowerCutError):
        save(tmp_path, NEW, steps)
    files = TLSFiles(tmp_path)
    if steps == STEPS - 1:
        assert files.read() == NEW
    else:
        with pytest.raises(FileNotFoundError):
            files.read()


def test_what_does_not_fit_or_open_says_so(tmp_path: Path) -> None:
    files, ring, other = TLSFiles(tmp_path), Keyring.fresh(), Keyring.fresh()
    files.save(OLD, lambda key: seal_key(key, ring))
    assert files.read(lambda key: open_key(key, ring)) == OLD
    with pytest.raises(Internal, match=r"restore its raft\.keys"):
        files.read(lambda key: open_key(key, other))
    files.keep(NEW.key_pem)
    with pytest.raises(Internal, match="does not fit its certificate"):
        files.read()
    files.forget_key()
    with pytest.raises(FileNotFoundError):
        files.read()


def test_a_writer_waits_for_the_lock_and_seals_with_the_ring_of_then(tmp_path: Path) -> None:
    files, rings = TLSFiles(tmp_path), [Keyring.fresh()]
    writer = threading.Thread(
        target=files.save, args=(OLD, lambda key: seal_key(key, rings[-1])), daemon=True
    )
    with files.locked():
        writer.start()
        rings.append(Keyring.fresh())
        assert not files.cert.exists()
    writer.join(20)
    assert files.read(lambda key: open_key(key, rings[1])) == OLD
