"""An experiment keeps the date that its chat template prints."""

import families
from conftest import Workdir
from prefloop.core.files import read_json, write_json

CHAT = "results/tiny/prompts/chat.json"


def test_rerun_on_another_day_keeps_the_date(tmp_path):
    """The token ids of prompts therefore stay the same when prepare_prompts runs again."""
    workdir = Workdir(tmp_path, families.make_family(tmp_path / "model", "smollm3"))
    workdir.configure(policy={"chat_template_kwargs": {"enable_thinking": False}, "system_prompt": "Be kind."})
    done = workdir.run(CHAT)
    assert done.returncode == 0, done.stdout
    chat = read_json(tmp_path / CHAT)
    assert chat["template_kwargs"] == {"enable_thinking": False}
    write_json(tmp_path / CHAT, chat | {"date": "2024-02-29"})
    done = workdir.run(CHAT, "--forcerun", "prepare_prompts")
    assert done.returncode == 0, done.stdout
    assert read_json(tmp_path / CHAT) == chat | {"date": "2024-02-29"}
    workdir.configure(policy={"template_date": "2025-01-31"})
    assert workdir.run(CHAT).returncode == 0
    assert read_json(tmp_path / CHAT)["date"] == "2025-01-31"
