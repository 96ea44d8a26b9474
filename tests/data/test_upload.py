"""Uploads: copied under a plain name, never over another file, never through a link."""

from __future__ import annotations

import pytest

from studio.core.errors import DataError
from studio.data import upload
from studio.data.upload import store_upload


def test_an_upload_is_copied_into_the_home(write_rows, home):
    path = write_rows([{"text": "a"}])
    stored = store_upload(path, "My rows.jsonl", home)
    assert stored == home.uploads / "My_rows.jsonl"
    assert stored.read_text() == path.read_text()


def test_the_same_file_twice_is_one_and_another_of_its_name_is_kept(write_rows, home):
    first = store_upload(write_rows([{"text": "a"}]), "rows.jsonl", home)
    assert store_upload(write_rows([{"text": "a"}], "again.jsonl"), "rows.jsonl", home) == first
    other = store_upload(write_rows([{"text": "b"}], "other.jsonl"), "rows.jsonl", home)
    assert other.name == "rows-2.jsonl"
    assert "a" in first.read_text()
    assert sorted(file.name for file in home.uploads.iterdir()) == ["rows-2.jsonl", "rows.jsonl"]


@pytest.mark.parametrize("name", ["../../evil.jsonl", "..\\..\\evil.jsonl", "/etc/evil.jsonl", ".evil.jsonl"])
def test_a_name_cannot_lead_out_of_the_folder(write_rows, home, name):
    stored = store_upload(write_rows([{"text": "a"}]), name, home)
    assert stored.parent == home.uploads
    assert stored.name == "evil.jsonl"


def test_what_is_no_data_file_is_refused(write_rows, home, tmp_path, monkeypatch):
    path = write_rows([{"text": "a"}])
    with pytest.raises(DataError, match="no data file"):
        store_upload(path, "rows.exe", home)
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)
    with pytest.raises(DataError, match="no plain file"):
        store_upload(link, "rows.jsonl", home)
    monkeypatch.setattr(upload, "MAX_UPLOAD_BYTES", 3)
    with pytest.raises(DataError, match="larger than"):
        store_upload(path, "rows.jsonl", home)
    assert not home.uploads.exists()
