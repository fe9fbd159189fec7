"""The files and functions on which a stage depends through its sources."""

from prefloop.config.source_names import configured_sources, source_code, source_files


def section(*sources: str) -> dict:
    return {"source": None, "sources": [{"source": source} for source in sources]}


def test_files_of_sources(tmp_path, monkeypatch):
    """Only existing files count, and in a folder all files except the caches that reading leaves there."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "saved/dataset_info.json", "saved/data-0.arrow", "saved/cache-1.arrow", "my_data.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    found = source_files(section("a.csv", "packaged", "hub:owner/data", "saved", "my_data.py:rows"))
    assert found == ["a.csv", "saved/data-0.arrow", "saved/dataset_info.json"]
    assert source_files({"source": "a.csv"}) == ["a.csv"]
    assert source_files({"source": None, "sources": None}) == []


def test_code_hash_changes_only_with_the_meaning(tmp_path, monkeypatch):
    from prefloop.core.code_dependencies import code_files, read_module

    monkeypatch.chdir(tmp_path)
    hashes = []
    for body in ("yield {}", "yield {}  # the same", "yield {'prompt': 'a'}"):
        (tmp_path / "my_data.py").write_text(f"def rows():\n    {body}\n")
        read_module.cache_clear()
        code_files.cache_clear()
        hashes.append(source_code(section("my_data.py:rows", "packaged")))
    assert hashes[0] == hashes[1] != hashes[2]
    assert source_code({"source": "hub:owner/rows"}) == []


def test_sources_have_all_defaults():
    (source,) = configured_sources({"sources": [{"source": "a.csv", "columns": {"prompt": "question"}}]})
    assert source["columns"] == {"prompt": "question", "chosen": "chosen", "rejected": "rejected"}
    assert (source["split"], source["share"], source["messages_template"]) == ("train", None, None)
