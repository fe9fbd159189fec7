"""Front matter of cards of fetched models."""

import pytest

from prefloop.models.model_cards import front_matter, license_fields


def test_front_matter_is_read(tmp_path):
    (tmp_path / "README.md").write_text("---\r\nlicense: apache-2.0\r\ntags: [x]\r\n---\r\n# base\r\n", newline="")
    assert front_matter(tmp_path / "README.md") == {"license": "apache-2.0", "tags": ["x"]}
    assert license_fields(tmp_path / "README.md") == {"license": "apache-2.0"}


@pytest.mark.parametrize("text", ["", "no front matter", "---\n- a\n---\n", "---\n{\n---\n", "---\nlicense:\n---\n"])
def test_card_without_license_has_none(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    assert license_fields(tmp_path / "README.md") == {}
    assert license_fields(tmp_path / "absent.md") == {}
