"""Names of models: hub ids, revisions, and the names of the folders of fetched models."""

import pytest

from prefloop.config.existence import absent_model
from prefloop.models.sources import hub_model, model_name


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("owner/name", ("owner/name", None)),
        ("gpt2", ("gpt2", None)),
        ("owner/name.v2@main", ("owner/name.v2", "main")),
        ("owner/name@refs/pr/3", ("owner/name", "refs/pr/3")),
        ("owner/name@", None),
        ("owner/name@a b", None),
        ("a/b/c", None),
        ("./name@v1", None),
        ("pypi:a==1/b", None),
    ],
)
def test_hub_models_have_an_id_and_a_revision(source, expected):
    assert hub_model(source) == expected


def test_folder_names_are_readable_and_distinct():
    names = [
        model_name(source) for source in ("o/a", "o/a@v1", "o/a@refs/pr/3", "p/a", "/x/a@v1", "pypi:p==1/q/a.gguf#s")
    ]
    assert len(set(names)) == len(names)
    starts = ["a-", "a-v1-", "a-refs-pr-3-", "a-", "a-v1-", "a-"]
    assert [name.rsplit("-", 1)[0] + "-" for name in names] == starts
    assert model_name("o/a") == "a-cc8e2575", "folder names of earlier experiments do not change"


def test_pinned_models_are_accepted_before_any_job():
    assert absent_model("owner/name@v1") == []
    (problem,) = absent_model("owner/name@v1@v2")
    assert problem == (
        "model owner/name@v1@v2: expected a local folder, the hub's owner/name or owner/name@revision, or "
        "pypi:package==version/path"
    )
