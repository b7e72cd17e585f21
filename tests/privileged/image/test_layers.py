from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

from runtime.image.pack import is_whiteout, pack_layer
from runtime.image.unpack import LAYER, OPAQUE_XATTR, unpack
from tests.unit.image.tars import file_member, tar_of


def test_layers_carry_whiteouts_owners_devices_and_xattrs(tmp_path: Path) -> None:
    owned = file_member("d/s", b"x", 0o4755)
    owned[0].uid, owned[0].gid = 7, 8
    null = tarfile.TarInfo("null")
    null.type, null.devmajor, null.devminor = tarfile.CHRTYPE, 1, 3
    members = (owned, (null, b""), file_member("d/.wh.gone"), file_member("o/.wh..wh..opq"))
    unpack(tar_of(*members), tmp_path, LAYER)
    status = (tmp_path / "d/s").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (7, 8, 0o4755)
    assert (tmp_path / "null").stat().st_rdev == os.makedev(1, 3)
    assert is_whiteout((tmp_path / "d/gone").lstat())
    assert os.getxattr(tmp_path / "o", OPAQUE_XATTR) == b"y"
    os.setxattr(
        tmp_path / "d/s", "security.capability", bytes.fromhex("0100000200040000" + "00" * 12)
    )
    out = io.BytesIO()
    pack_layer(tmp_path, out)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        names = set(tar.getnames())
        assert "SCHILY.xattr.security.capability" in tar.getmember("d/s").pax_headers
    assert {"d/.wh.gone", "o/.wh..wh..opq", "null"} <= names
    assert "d/gone" not in names
