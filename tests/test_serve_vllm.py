"""The script that serves all splits' adapters from one vLLM server says the right command (vLLM itself is not here)."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "scripts" / "serve_vllm.sh"


def adapter(folder: Path, *, base: str = "org/base", rank: int = 8) -> None:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base, "r": rank}))


def printed(results: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RESULTS": str(results), "PRINT": "1", "PYTHON": sys.executable}
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, env=environment)


def test_every_split_is_an_adapter_of_its_own_name_of_one_server(tmp_path: Path) -> None:
    for number, rank in ((0, 8), (1, 24)):
        adapter(tmp_path / "models" / "mine" / f"split_{number}", rank=rank)

    said = shlex.split(printed(tmp_path, "mine", "--port", "8001").stdout)

    modules = said.index("--lora-modules")
    folder = tmp_path / "models" / "mine"
    assert said[:3] == ["vllm", "serve", "org/base"]
    assert said[modules + 1 : modules + 3] == [f"mine-split_{n}={folder}/split_{n}" for n in (0, 1)]
    assert said[said.index("--max-lora-rank") + 1] == "32"  # 24 is no rank that vLLM knows
    assert said[-2:] == ["--port", "8001"]


def test_adapters_of_two_bases_and_whole_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "models" / "whole" / "split_0").mkdir(parents=True)
    adapter(tmp_path / "models" / "mixed" / "split_0")
    adapter(tmp_path / "models" / "mixed" / "split_1", base="org/other")

    whole, mixed = printed(tmp_path, "whole"), printed(tmp_path, "mixed")

    assert whole.returncode != 0
    assert "no adapters" in whole.stderr
    assert mixed.returncode != 0
    assert "org/base, org/other" in mixed.stderr
