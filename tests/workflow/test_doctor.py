"""The doctor says what works here and why, and keeps secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatbench.core.settings import recipes
from chatbench.training.dry_run import estimated_bytes
from chatbench.workflow import doctor as module
from chatbench.workflow.doctor import Finding, doctor, print_doctor

WORKS = Finding("8-bit", "ok", "")


def verdict(recipe: str, device: str, memory: float, eight_bit: Finding = WORKS, *, token: bool = True) -> Finding:
    return module._recipe(recipes()[recipe], device, memory, eight_bit, token=token)


def test_every_recipe_gets_a_verdict_and_no_secret_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_value")

    findings = doctor(tmp_path / "not" / "there" / "yet")

    lines: list[str] = []
    print_doctor(findings, lines.append)
    assert "hf_secret" not in "\n".join(lines)
    by_subject = {finding.subject: finding for finding in findings}
    assert by_subject["HF_TOKEN"] == Finding("HF_TOKEN", "ok", "set")
    assert {f"recipe {name}" for name in recipes()} <= set(by_subject)
    assert by_subject["recipe tiny-random"].state == "ok"
    assert not (tmp_path / "not").exists()


def test_without_a_token_the_gated_model_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)

    assert verdict("llama3-8b", "cuda", 80, token=False).state == "no"
    assert verdict("llama3-8b", "cuda", 80, token=True).state == "note"


@pytest.mark.parametrize(
    ("device", "memory", "fits"), [("cuda", 16, True), ("cuda", 10, False), ("cpu", 16, False), ("cpu", 24, True)]
)
def test_a_cpu_holds_what_is_not_quantised_in_more_bytes(device: str, memory: float, fits: bool) -> None:
    assert (verdict("mistral-7b", device, memory).state != "no") is fits


@pytest.mark.parametrize("name", ["mistral-7b", "qwen3-8b"])
def test_a_recipe_that_quantises_needs_what_quantises(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without it, training would refuse; the doctor used to promise plain weights.
    finding = verdict(name, "mps", 64, module._eight_bit("mps"))
    assert (finding.state, "CUDA GPU" in finding.text) == ("no", True)

    monkeypatch.setattr(module.util, "find_spec", lambda _name: None)
    assert module._eight_bit("cuda") == Finding("8-bit", "no", "needs bitsandbytes: pip install bitsandbytes")


@pytest.mark.parametrize(("short", "digits"), [(5, 0), (0.01, 2)])
def test_memory_that_falls_short_by_little_is_shown_with_decimals(short: float, digits: int) -> None:
    # It said: "needs about 24 GiB of memory, but the device has 24".
    needed = estimated_bytes(recipes()["mistral-7b"], on_gpu=True) / 2**30

    text = verdict("mistral-7b", "cuda", needed - short).text
    assert text == f"needs about {needed:.{digits}f} GiB of memory, but the device has {needed - short:.{digits}f}"
