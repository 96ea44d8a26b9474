"""Taking a file a person uploads into the home, where load.py finds it like any other path.

The name is reduced to plain characters, a link is refused, and the size is limited to MAX_UPLOAD_BYTES: what is larger is better named by
its path than copied. An upload of the same name and content is the same file; of the same name only, gets a number.

Does not know: what is in the file. The preview says whether it can be read.
"""

from __future__ import annotations

import filecmp
import re
import shutil
from pathlib import Path

from studio.core.errors import DataError, from_os_error
from studio.core.paths import StudioHome
from studio.data.read import KINDS, SUFFIXES

MAX_UPLOAD_BYTES = 4 * 2**30


def store_upload(upload: Path, name: str, home: StudioHome) -> Path:
    """Copy `upload` into the home under (nearly) `name`; the path is what DataSpec.source takes. Raises DataError, DiskFull."""
    plain = re.sub(r"[^\w.-]+", "_", Path(name.replace("\\", "/")).name).lstrip(".")[-100:]
    if Path(plain).suffix.lower() not in SUFFIXES:
        raise DataError(f"{name} is no data file the studio reads.", KINDS)
    if upload.is_symlink() or not upload.is_file():
        raise DataError(f"{name} is no plain file.", "Upload the file itself.")
    if upload.stat().st_size > MAX_UPLOAD_BYTES:
        raise DataError(f"{name} is larger than {MAX_UPLOAD_BYTES // 2**30} GiB.", "Name its path instead of uploading it.")
    try:
        return _copy(upload, home.uploads, Path(plain))
    except OSError as error:
        raise from_os_error(error, f"storing {plain}") from error


def _copy(upload: Path, folder: Path, name: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    target, number = folder / name, 1
    while target.exists():
        if filecmp.cmp(upload, target, shallow=False):
            return target
        number += 1
        target = folder / f"{name.stem}-{number}{name.suffix}"
    part = target.with_name(f".{target.name}.part")
    try:
        shutil.copyfile(upload, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target
