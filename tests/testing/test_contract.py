"""Every method, ours and an example's, holds every property of the contract that applies to it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from steadytune.core.authoring.method import Cost, LossMethod, Method, hyperparameter
from steadytune.core.authoring.per_item import PerItem
from steadytune.core.authoring.step import Step
from steadytune.errors import MethodError
from steadytune.methods.registry import REGISTRY, build_methods, method_classes
from steadytune.testing import PROPERTIES, check, reason_not_applicable, tiny, variants

ROOT = Path(__file__).parents[2]
CLASSES = method_classes()


#: They take most of the time; further settings of a method have them among the long tests.
DEAR = {"resume", "memory_is_counted", "hosts_agree"}


def rows() -> list[Any]:
    found = []
    for method in CLASSES:
        for i, settings in enumerate(variants(method)):
            found += [
                pytest.param(
                    *(method, settings, name),
                    id=f"{method.name}-{i}-{name}",
                    marks=[pytest.mark.long] if i and name in DEAR else [],
                )
                for name in PROPERTIES
                if reason_not_applicable(method, name) is None
            ]
    return found


@pytest.mark.parametrize(("method", "settings", "name"), rows())
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_contract(method: type[Method], settings: Mapping[str, Any], name: str) -> None:
    check(method, name, settings)


@pytest.mark.parametrize("method", CLASSES, ids=lambda m: m.name)
def test_what_does_not_apply_is_declared_with_a_reason(method: type[Method]) -> None:
    for name, reason in method.not_applicable.items():
        assert name in PROPERTIES
        assert len(reason.split()) >= 4, f"{method.name}: {name}: {reason!r} is no reason"
    assert len(method.not_applicable) < len(PROPERTIES) / 2


def test_a_property_that_does_not_apply_is_not_checked_in_silence() -> None:
    class Excused(REGISTRY["r3f"].build):  # type: ignore[misc, name-defined]
        not_applicable: ClassVar[Mapping[str, str]] = {"bf16": "for the sake of this test"}

    with pytest.raises(MethodError, match="bf16 does not apply to r3f: for the sake of this test"):
        check(Excused, "bf16")

    class Mistaken(REGISTRY["r3f"].build):  # type: ignore[misc, name-defined]
        not_applicable: ClassVar[Mapping[str, str]] = {"paddings": "a typing error"}

    with pytest.raises(MethodError, match="Did you mean 'padding'"):
        check(Mistaken, "bf16")


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize("name", REGISTRY)
def test_every_entry_builds_and_is_built_again_from_its_settings(name: str) -> None:
    methods = build_methods([name])
    again = [type(m)(**m.settings()) for m in methods]
    assert again == methods
    for method in methods:
        for setting, value in method.settings().items():
            if len(methods) == 1 and setting in REGISTRY[name].settings():
                built = build_methods([name], {name: {setting: value}})
                assert built == methods


def ranges() -> list[Any]:
    found = []
    for method in CLASSES:
        for f in fields(method):
            limits = f.metadata
            if limits.get("high") is not None:
                found.append(pytest.param(method, f.name, limits["high"] * 2 + 1, id=f"{method.name}.{f.name}-high"))
            if limits.get("low") is not None:
                found.append(pytest.param(method, f.name, limits["low"] - 1, id=f"{method.name}.{f.name}-low"))
            if limits.get("choices") is not None:
                found.append(pytest.param(method, f.name, "no such", id=f"{method.name}.{f.name}-choice"))
            if limits.get("low") is not None or limits.get("high") is not None:
                found.append(pytest.param(method, f.name, float("nan"), id=f"{method.name}.{f.name}-nan"))
                found.append(pytest.param(method, f.name, "1", id=f"{method.name}.{f.name}-text"))
    return found


@pytest.mark.parametrize(("method", "setting", "value"), ranges())
def test_what_is_out_of_range_is_refused_with_the_range(method: type[Method], setting: str, value: Any) -> None:
    with pytest.raises(MethodError, match=rf"{method.name}\.{setting} must be .*(between|at least|above|one of)") as e:
        method(**{setting: value})
    assert "\n" not in str(e.value)


# ---------------------------------------------------------------- the suite finds faults


@dataclass(frozen=True)
class Faulty(LossMethod):
    """A sound method, for the faults below to be put into."""

    name: ClassVar[str] = "faulty"
    paper: ClassVar[str] = "a test"
    radius: float = hyperparameter(0.05, "standard deviation", low=0, high=10)

    def term(self, step: Step) -> PerItem:
        moved = step.logits(step.normal_noise(self.radius), masks="same")
        return step.per_item(step.divergence(moved, step.logits()))

    def cost(self) -> Cost:
        return Cost(forwards=1, backwards=1, activation_sets=1)

    def effect(self) -> str:
        return "nothing good"


def with_fault(**members: Any) -> type[Method]:
    return type("Faulty", (Faulty,), members)


def adds_a_constant_gradient(self: LossMethod, step: Step) -> Tensor:
    return step.parameters()["classifier.weight"].sum()


def draws_from_the_host(self: LossMethod, step: Step) -> PerItem:
    noise = self.radius * torch.randn(step.taps[0].seen.shape)  # type: ignore[attr-defined]
    return step.per_item(step.divergence(step.logits(noise.to(step.taps[0].seen.dtype)), step.logits()))


def returns_a_mean(self: LossMethod, step: Step) -> PerItem:
    values = Faulty.term(self, step).values  # type: ignore[arg-type]
    return PerItem(values.sum().expand_as(values), torch.ones_like(values))


def sees_padding(self: LossMethod, step: Step) -> PerItem:
    values = Faulty.term(self, step).values  # type: ignore[arg-type]
    return step.per_item(values * step.taps[0].seen.shape[1])


def writes_gradients(self: LossMethod, step: Step) -> PerItem:
    result = Faulty.term(self, step)  # type: ignore[arg-type]
    result.values.sum().backward(retain_graph=True)
    return result


def leaves_a_hook(self: LossMethod, step: Step) -> PerItem:
    step.plain_model.register_forward_hook(lambda *_: None)
    return Faulty.term(self, step)  # type: ignore[arg-type]


def depends_on_the_place(self: LossMethod, step: Step) -> PerItem:
    result = Faulty.term(self, step)  # type: ignore[arg-type]
    return step.per_item(result.values * torch.arange(len(result.values)))


FAULTS: dict[str, tuple[Callable[[], type[Method]], set[str]]] = {
    "none": (lambda: with_fault(), set()),
    "too dear": (lambda: with_fault(cost=lambda self: Cost()), {"cost_is_counted", "memory_is_counted"}),
    "acts at zero": (lambda: with_fault(task_change=adds_a_constant_gradient), {"zero_is_plain"}),
    "host's numbers": (lambda: with_fault(term=draws_from_the_host), {"host_randomness", "padding"}),
    "a mean": (lambda: with_fault(term=returns_a_mean), {"accumulation"}),
    "padding": (lambda: with_fault(term=sees_padding), {"padding", "accumulation"}),
    "own backward": (lambda: with_fault(term=writes_gradients), {"zero_is_plain"}),
    "a hook": (lambda: with_fault(term=leaves_a_hook), {"leaves_no_trace"}),
    "the place": (lambda: with_fault(term=depends_on_the_place), {"batch_order"}),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_suite_finds_the_fault(fault: str) -> None:
    build, expected = FAULTS[fault]
    method = build()
    found = set()
    for name in PROPERTIES:
        if name in ("hosts_agree", "resume", "lora"):
            continue
        try:
            check(method, name)
        except AssertionError:
            found.add(name)
    assert expected <= found
    assert fault != "none" or not found


# ---------------------------------------------------------------- a method of one's own


@pytest.fixture
def installed_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example as an installed package offers it."""
    (tmp_path / "own_method.py").write_text((ROOT / "examples" / "own_method.py").read_text())
    info = tmp_path / "own_method-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-method\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[steadytune.methods]\nown_method = own_method:OwnMethod\nbroken = own_method:Nothing\nsmart = os:path\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    yield tmp_path
    sys.modules.pop("own_method", None)


@pytest.mark.long
def test_the_example_gets_the_contract_through_its_entry_point(installed_example: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "steadytune.testing", "own_method"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the contract holds" in done.stdout
    for name in PROPERTIES:
        assert f"holds {name}:" in done.stdout


def test_a_plugin_is_a_method_like_any_other(installed_example: Path, messages: list[str]) -> None:
    (method,) = build_methods(["own_method"], {"own_method": {"radius": 0.5}})
    assert method.settings() == {"weight": 1.0, "radius": 0.5}
    assert any("Method broken of own-method is left out: AttributeError" in m for m in messages)
    assert any("Method smart of own-method is left out: the name is taken" in m for m in messages)
    plain, network = tiny.model(), tiny.model()
    tiny.loop(plain, None)
    tiny.loop(network, [method])
    assert tiny.differing(tiny.weights(network), tiny.weights(plain))


@pytest.mark.long
def test_the_contract_says_what_it_does_not_know() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "steadytune.testing", "freelbb"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Did you mean 'freelb'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
