"""Files that a user gives: UTF-8, whatever the locale of the machine that wrote them."""

import codecs
import json

import pytest

from setadam_conformance.running.files import read_json, read_text


def test_utf_8_is_read_with_and_without_a_mark(tmp_path):
    for mark in (b"", codecs.BOM_UTF8):
        (tmp_path / "x.json").write_bytes(mark + json.dumps({"τ": "½"}, ensure_ascii=False).encode())
        assert read_json(tmp_path / "x.json") == {"τ": "½"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("τ".encode("utf-16"), "must be in UTF-8, got UTF-16"),
        (codecs.BOM_UTF16_BE + "τ".encode("utf-16-be"), "must be in UTF-8, got UTF-16"),
        ("τ".encode("utf-32"), "must be in UTF-8, got UTF-32"),
        ("½".encode("latin-1"), "its byte 0 is 0xbd"),
        ("ok ½".encode("cp1252"), "its byte 3 is 0xbd"),
    ],
)
def test_another_encoding_is_named_or_its_first_byte(tmp_path, data, said):
    (tmp_path / "x.txt").write_bytes(data)
    with pytest.raises(ValueError, match=said) as error:
        read_text(tmp_path / "x.txt")
    assert str(tmp_path / "x.txt") in str(error.value)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "", "NaN,"])
def test_what_is_not_json_is_a_value_error(tmp_path, text):
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"x\.json must be JSON"):
        read_json(tmp_path / "x.json")
