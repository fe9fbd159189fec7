"""`snakemake export` writes models and model cards, and the default target does not include it."""

from transformers import AutoModelForCausalLM, AutoTokenizer

from prefloop.core.files import read_json


def test_export_writes_a_model_and_card_per_method(finished, copy_of):
    directory = copy_of(finished)
    assert directory.jobs() == set(), "the default target does not include export"
    done = directory.run("export")
    assert done.returncode == 0, done.stdout
    models = sorted(directory.path.glob("results/tiny/*/seed-*/round-*/model"))
    assert [str(path.relative_to(directory.path / "results/tiny")) for path in models] == [
        "dota/seed-0/round-2/model",
        "uniform/seed-0/round-2/model",
    ]
    for folder in models:
        assert AutoModelForCausalLM.from_pretrained(folder).config.vocab_size == len(
            AutoTokenizer.from_pretrained(folder)
        )
        card = (folder / "README.md").read_text()
        assert f"# tiny-{folder.parents[2].name}-seed-0-round-2" in card
        assert "3. round 2: policy.pt" in card and "## Results" in card and "| initial | 1 |" in card
        assert str(directory.path) not in card and "/tmp" not in card
        assert read_json(folder / "manifest.json")["source"] == "merged policy of llama"
    assert directory.jobs("export") == set()
    hub = ["--config", "export={hub_id: 'me/x-{method}-{round}', rounds: [1, 2]}"]
    assert directory.jobs("export", *hub) == {"merge_policy", "write_model_card", "push_model", "export"}
    assert directory.jobs(*hub) == set()
