"""The doctor says what works here and why, and keeps secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatbench.workflow import doctor as module
from chatbench.workflow.doctor import Finding, doctor, print_doctor


def test_every_recipe_gets_a_verdict_and_no_secret_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_value")

    findings = doctor(tmp_path / "not" / "there" / "yet")

    lines: list[str] = []
    print_doctor(findings, lines.append)
    screen = "\n".join(lines)
    assert "hf_secret" not in screen
    by_subject = {finding.subject: finding for finding in findings}
    assert by_subject["HF_TOKEN"] == Finding("HF_TOKEN", "ok", "set")
    for name in module.recipes():
        assert f"recipe {name}" in by_subject
    assert by_subject["recipe tiny-random"].state == "ok"
    assert not (tmp_path / "not").exists()


def test_without_a_token_the_gated_model_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    llama = module.recipes()["llama3-8b"]
    eight_bit = Finding("8-bit", "ok", "")
    monkeypatch.setattr(module, "_is_here", lambda _base: False)

    assert module._recipe(llama, "cuda", 80, eight_bit, token=False).state == "no"
    assert module._recipe(llama, "cuda", 80, eight_bit, token=True).state == "note"


def test_a_processor_holds_what_is_not_quantised_in_more_bytes() -> None:
    mistral = module.recipes()["mistral-7b"]

    def state(device: str, memory: float) -> str:
        return module._recipe(mistral, device, memory, Finding("8-bit", "ok", ""), token=False).state

    assert state("cuda", 16) != "no"
    assert state("cuda", 10) == "no"
    assert state("cpu", 16) == "no"
    assert state("cpu", 24) != "no"


def test_a_recipe_that_quantises_needs_what_quantises() -> None:
    # Without it, training would refuse; the doctor used to promise plain weights.
    for name in ("mistral-7b", "qwen3-8b"):
        finding = module._recipe(module.recipes()[name], "mps", 64, module._eight_bit("mps"), token=True)
        assert (finding.state, "CUDA GPU" in finding.text) == ("no", True)


def test_a_machine_without_bitsandbytes_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.util, "find_spec", lambda _name: None)

    assert module._eight_bit("cuda").state == "no"
    assert "pip install bitsandbytes" in module._eight_bit("cuda").text
