"""NoisyTune: equation 1 against a slow transcription, and what must not move."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from helpers import tiny
from references import noisytune as reference
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, XLMRobertaConfig, XLMRobertaForSequenceClassification

from steadytune import Stack, noisytune, perturb_weights
from steadytune.errors import MethodError
from steadytune.methods.noisytune import NoisyTune, WeightNoiseReport, unit_noise

WORDS = "bert.embeddings.word_embeddings.weight"
QUERY = "bert.encoder.layer.0.attention.self.query.weight"


def moved(before: Mapping[str, Tensor], model: nn.Module) -> set[str]:
    """Names of the parameters whose bits changed; a NaN equals itself."""
    return {
        name
        for name, p in model.named_parameters()
        if not torch.equal(before[name].nan_to_num(12345.0), p.detach().nan_to_num(12345.0))
    }


def transformed(model: nn.Module, **settings: Any) -> tuple[dict[str, Tensor], set[str], WeightNoiseReport]:
    """Weights before, names that moved, and the report."""
    before = tiny.weights(model)
    report = noisytune(**settings).transform(model, seed=5)
    return before, moved(before, model), report


def reasons(report: WeightNoiseReport) -> dict[str, str]:
    return {t.name: t.reason for t in report.tensors}


def digest(model: nn.Module) -> str:
    joined = b"".join(p.detach().numpy().tobytes() for _, p in sorted(model.named_parameters()))
    return hashlib.sha256(joined).hexdigest()


def with_biases(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every vector a spread, as after pretraining."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 1:
                p.add_(torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype) * 0.1)
    return model


# --- parity ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["uniform", "gaussian"])
@pytest.mark.parametrize("scope", ["matrix", "global"])
def test_equals_the_reference(noise: Any, scope: Any) -> None:
    model = with_biases(tiny.bert(dtype=torch.float64))
    before, names, _ = transformed(model, intensity=0.15, noise=noise, scope=scope)
    body = {n: w for n, w in before.items() if n.startswith("bert.")}
    assert names == set(body)
    # The reference multiplies standard normal draws; unit_noise gives them the variance of the uniform ones.
    factor = 12**0.5 if noise == "gaussian" else 1.0
    draws = {n: unit_noise(n, w.shape, 5, noise).double() * factor for n, w in body.items()}
    draws[WORDS][0] = 0  # the row of [PAD]
    expected = reference.noisytune(body, draws, 0.15, noise, scope)
    after = tiny.weights(model)
    for name, start in body.items():
        torch.testing.assert_close(after[name] - start, expected[name] - start, rtol=1e-9, atol=1e-16)
        torch.testing.assert_close(after[name], expected[name], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equals_the_reference_up_to_the_rounding_of_the_type(dtype: torch.dtype) -> None:
    model = with_biases(tiny.bert(dtype=dtype))
    before, names, _ = transformed(model)
    body = {n: before[n] for n in names}
    draws = {n: unit_noise(n, w.shape, 5) for n, w in body.items()}
    draws[WORDS][0] = 0
    expected = reference.noisytune(body, draws, 0.15)
    assert WORDS in names
    for name, p in model.named_parameters():
        assert p.dtype == dtype
        if name in names:
            tolerance = torch.finfo(dtype).eps
            torch.testing.assert_close(p.detach().double(), expected[name], rtol=tolerance, atol=0.1 * tolerance)


def test_change_has_the_bound_and_the_variance_of_equation_1() -> None:
    for noise in ("uniform", "gaussian"):
        layer = nn.Linear(1000, 1000, bias=False, dtype=torch.float64)
        before = layer.weight.detach().clone()
        bound, variance = reference.expected_moments(before, 0.15)
        noisytune(noise=noise).transform(layer, seed=5)
        change = layer.weight.detach() - before
        assert float(change.var()) == pytest.approx(variance, rel=0.01)
        assert abs(float(change.mean())) < 5 * (variance / change.numel()) ** 0.5
        largest = float(change.abs().max())
        if noise == "uniform":
            assert 0.999 * bound < largest <= bound
        else:
            assert largest > 2 * bound


def test_unit_noise_does_not_depend_on_the_default_type() -> None:
    expected = unit_noise("w", torch.Size([3, 3]), 0)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(unit_noise("w", torch.Size([3, 3]), 0), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_each_tensor_has_noise_of_its_own() -> None:
    draws = [unit_noise(name, torch.Size([1000]), seed) for name in ("a", "b") for seed in (0, 1)]
    correlations = torch.corrcoef(torch.stack(draws)) - torch.eye(4)
    assert float(correlations.abs().max()) < 0.15


# --- what stays -----------------------------------------------------------------------------------


def test_the_new_head_stays_unless_asked_for() -> None:
    _, names, report = transformed(with_biases(tiny.bert()))
    assert {"classifier.weight", "classifier.bias"}.isdisjoint(names)
    assert reasons(report)["classifier.weight"] == "new head"
    assert "bert.pooler.dense.weight" in names
    _, names, report = transformed(with_biases(tiny.bert()), head=True)
    assert {"classifier.weight", "classifier.bias"} <= names
    assert not any(reasons(report).values())


def test_tensors_without_a_spread_stay_and_the_others_move() -> None:
    model = tiny.bert()
    model.bert.register_parameter("temperature", nn.Parameter(torch.tensor([3.0])))
    model.bert.register_parameter("scalar", nn.Parameter(torch.tensor(3.0)))
    model.bert.register_parameter("nothing", nn.Parameter(torch.zeros(0, 4)))
    key = "bert.encoder.layer.1.attention.self.key.weight"
    with torch.no_grad():
        model.get_parameter(QUERY)[2, 3] = float("nan")
        model.get_parameter(key)[0, 0] = float("inf")
    for scope in ("matrix", "global"):
        _, names, report = transformed(model, scope=scope)
        why = reasons(report)
        assert why[QUERY] == why[key] == "std not finite"
        assert why["bert.temperature"] == why["bert.scalar"] == why["bert.nothing"] == "a single entry"
        assert {QUERY, key, "bert.temperature", "bert.scalar", "bert.nothing"}.isdisjoint(names)
        assert {WORDS, QUERY.replace("layer.0", "layer.1")} <= names
        assert all(torch.isfinite(p).all() for n, p in model.named_parameters() if n not in (QUERY, key))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_constant_tensors_stay(dtype: torch.dtype) -> None:
    model = tiny.bert(dtype=dtype)
    norm, bias = "bert.embeddings.LayerNorm.weight", "bert.pooler.dense.bias"
    with torch.no_grad():
        model.get_parameter(bias).fill_(0.1)  # whose mean rounds
    _, names, report = transformed(model)
    assert {norm, bias}.isdisjoint(names)
    assert reasons(report)[norm] == "constant"
    assert QUERY in names
    _, names, _ = transformed(model, scope="global")
    assert {norm, bias} <= names  # one std for all, so a constant tensor moves too


@pytest.mark.parametrize(("build", "words", "row"), [(tiny.bert, WORDS, 0), (tiny.roberta, WORDS, 1)])
def test_the_padding_row_stays(build: Any, words: str, row: int) -> None:
    model = build()
    words = words.replace("bert", model.base_model_prefix, 1)
    embedding = model.get_parameter(words)
    with torch.no_grad():
        embedding[row] = 0.5
    before, names, _ = transformed(model)
    unchanged = (embedding == before[words]).all(1)
    assert words in names
    assert unchanged.nonzero().flatten().tolist() == [row]


def test_the_row_of_a_padding_position_stays() -> None:
    model = tiny.roberta()
    positions = model.roberta.embeddings.position_embeddings.weight
    with torch.no_grad():
        positions[1] = 0.5
    before = positions.detach().clone()
    transformed(model)
    assert (positions == before).all(1).nonzero().flatten().tolist() == [1]


def test_frozen_parameters_stay() -> None:
    model = tiny.bert()
    model.bert.embeddings.requires_grad_(False)
    _, names, report = transformed(model)
    assert WORDS not in names
    assert reasons(report)[WORDS] == "frozen"
    assert QUERY in names


def test_skip_takes_patterns() -> None:
    _, names, report = transformed(with_biases(tiny.bert()), skip=("*.bias", "*embeddings*"))
    assert names
    assert not any(n.endswith(".bias") or "embeddings" in n for n in names)
    assert reasons(report)["bert.pooler.dense.bias"] == "skipped by name"
    _, names, _ = transformed(with_biases(tiny.bert()), skip="*.bias")
    assert WORDS in names
    assert not any(n.endswith(".bias") for n in names)


def xlm_roberta() -> XLMRobertaForSequenceClassification:
    config = XLMRobertaConfig(**tiny.sizes(), pad_token_id=1, bos_token_id=0, eos_token_id=2)
    return tiny.seeded(lambda: XLMRobertaForSequenceClassification(config), 0)


def multilingual_bert() -> nn.Module:
    model = tiny.bert()
    model.config.name_or_path = "google-bert/bert-base-multilingual-cased"
    return model


@pytest.mark.parametrize("build", [xlm_roberta, multilingual_bert])
def test_word_embeddings_of_multilingual_models_stay(build: Any) -> None:
    def words_move(**settings: Any) -> bool:
        model = build()
        _, names, report = transformed(model, **settings)
        assert any("query.weight" in n for n in names)
        assert any("position_embeddings.weight" in n for n in names)
        (words,) = (n for n in reasons(report) if n.endswith("word_embeddings.weight"))
        assert reasons(report)[words] == ("" if words in names else "word embeddings")
        return words in names

    assert not words_move()
    assert not words_move(word_embeddings="keep")
    assert words_move(word_embeddings="perturb")


def test_word_embeddings_of_other_models_move_unless_kept() -> None:
    assert WORDS in transformed(tiny.bert())[1]
    assert WORDS not in transformed(tiny.bert(), word_embeddings="keep")[1]


def test_tied_weights_move_once() -> None:
    config = BertConfig(**tiny.sizes())
    model = tiny.seeded(lambda: BertForMaskedLM(config), 0)
    words, out = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert words is out
    before, names, report = transformed(model)
    assert model.get_output_embeddings().weight is words
    assert [t.name for t in report.tensors].count(WORDS) == 1
    assert WORDS in names
    assert not any(r == "new head" for r in reasons(report).values())
    draws = unit_noise(WORDS, words.shape, 5)
    draws[0] = 0
    expected = reference.noisytune({WORDS: before[WORDS]}, {WORDS: draws}, 0.15)[WORDS]
    torch.testing.assert_close(words.detach().double(), expected, rtol=1e-6, atol=1e-8)


# --- randomness -----------------------------------------------------------------------------------

IN_ANOTHER_PROCESS = """
import hashlib, torch
from steadytune import noisytune
from torch import nn
torch.set_num_threads({threads})
torch.rand(17)
model = nn.Sequential(nn.Linear(600, 700), nn.LayerNorm(700), nn.Linear(700, 3))
weights = torch.Generator().manual_seed(0)
with torch.no_grad():
    for p in model.parameters():
        p.copy_(torch.randn(p.shape, generator=weights))
noisytune(scope="{scope}").transform(model, seed={seed})
joined = b"".join(p.detach().numpy().tobytes() for _, p in sorted(model.named_parameters()))
print(hashlib.sha256(joined).hexdigest())
"""


def large_model() -> nn.Module:
    model = nn.Sequential(nn.Linear(600, 700), nn.LayerNorm(700), nn.Linear(700, 3))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return model


@pytest.mark.parametrize("scope", ["matrix", "global"])
def test_same_seed_same_bits_in_another_process_with_other_threads(scope: Any) -> None:
    def here(seed: int) -> str:
        model = large_model()
        noisytune(scope=scope).transform(model, seed=seed)
        return digest(model)

    code = IN_ANOTHER_PROCESS.format(threads=2, scope=scope, seed=5)
    environment = os.environ | {"OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "7"}
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert there.stdout.split() == [here(5)]
    assert here(5) != here(6)
    assert here(5) != digest(large_model())


def test_does_not_depend_on_or_touch_the_state_of_torch() -> None:
    first, second = tiny.bert(), tiny.bert()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    noisytune().transform(first, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    noisytune().transform(second, seed=5)
    assert tiny.differences(tiny.weights(first), tiny.weights(second)) == []


def test_the_method_s_own_seed_comes_first() -> None:
    first, second, third = tiny.bert(), tiny.bert(), tiny.bert()
    noisytune(seed=5).transform(first, seed=99)
    noisytune().transform(second, seed=5)
    noisytune().transform(third, seed=99)
    assert tiny.differences(tiny.weights(first), tiny.weights(second)) == []
    assert tiny.differences(tiny.weights(first), tiny.weights(third)) != []


class Shuffled(nn.Module):
    """The same parameters, registered in another order."""

    def __init__(self, order: list[str]) -> None:
        super().__init__()
        for name in order:
            generator = torch.Generator().manual_seed(ord(name))
            self.register_parameter(name, nn.Parameter(torch.randn(20, 30, generator=generator)))


def test_the_order_of_parameters_does_not_matter() -> None:
    first, second = Shuffled(list("abc")), Shuffled(list("cab"))
    for model in (first, second):
        noisytune().transform(model, seed=5)
    for name in "abc":
        assert torch.equal(first.get_parameter(name), second.get_parameter(name))


# --- settings, preview, refusals ------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["matrix", "global"])
def test_intensity_0_leaves_every_bit(scope: Any) -> None:
    model = tiny.bert()
    with torch.no_grad():
        model.get_parameter(QUERY)[0] = -0.0
    before = digest(model)
    noisytune(intensity=0, scope=scope).transform(model, seed=5)
    assert digest(model) == before


def test_preview_is_the_report_and_does_not_touch() -> None:
    model = tiny.bert()
    model.bert.register_parameter("temperature", nn.Parameter(torch.tensor([3.0])))
    for scope in ("matrix", "global"):
        method = noisytune(scope=scope)
        before = digest(model)
        previewed = method.preview(model, seed=5)
        assert digest(model) == before
        report = method.transform(model, seed=5)
        assert digest(model) != before
        assert repr(previewed) == repr(report)  # a NaN is not equal to itself, its name is
        assert str(previewed) == str(report)


def test_report_gives_what_really_happened() -> None:
    model = tiny.bert()
    before, names, report = transformed(model)
    assert {t.name for t in report.tensors} == set(before)
    assert {t.name for t in report.tensors if not t.reason} == names
    for t in report.tensors:
        change = (model.get_parameter(t.name).detach() - before[t.name]).double()
        assert t.size == change.numel()
        assert t.moved_by == pytest.approx(float(change.square().mean().sqrt()), rel=1e-4, abs=1e-12)
        assert t.standard_deviation == pytest.approx(reference.sample_std(before[t.name]), rel=1e-6, nan_ok=True)
    text = str(report)
    assert f"moves {len(names)} tensors" in text
    assert "(new head)" in text


def test_as_a_function() -> None:
    first, second = tiny.bert(), tiny.bert()
    perturb_weights(first, 0.1, seed=5, skip="*.bias")
    noisytune(intensity=0.1, skip="*.bias").transform(second, seed=5)
    assert tiny.differences(tiny.weights(first), tiny.weights(second)) == []


def test_stack_perturbs_once_with_its_seed() -> None:
    model, expected = tiny.bert(), tiny.bert()
    noisytune().transform(expected, seed=9)
    stack = Stack([noisytune()], seed=9)
    stack.prepare(model)
    assert tiny.differences(tiny.weights(model), tiny.weights(expected)) == []
    stack.prepare(model, perturb=False)
    assert tiny.differences(tiny.weights(model), tiny.weights(expected)) == []
    stack.close()


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({"intensity": -0.1}, "intensity must be between 0 and 1; got -0.1"),
        ({"intensity": 1.5}, "intensity must be between 0 and 1; got 1.5"),
        ({"intensity": float("nan")}, "between 0 and 1; got nan"),
        ({"intensity": True}, "between 0 and 1; got True"),
        ({"intensity": "0.1"}, "between 0 and 1; got '0.1'"),
        ({"noise": "normal"}, "noise must be one of uniform, gaussian; got 'normal'"),
        ({"scope": "layer"}, "scope must be one of matrix, global; got 'layer'"),
        ({"word_embeddings": "maybe"}, "word_embeddings must be one of auto, perturb, keep"),
        ({"head": 1}, "head must be one of False, True; got 1"),
        ({"seed": 1.5}, "seed must be a whole number or none; got 1.5"),
        ({"seed": True}, "seed must be a whole number or none; got True"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], allowed: str) -> None:
    with pytest.raises(MethodError) as error:
        noisytune(**settings)
    assert str(error.value).startswith("noisytune.")
    assert allowed in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "method",
    [
        NoisyTune(),
        NoisyTune(0.3, "gaussian", "global", "keep", head=True, skip=("a*", "b"), seed=3),
        NoisyTune(intensity=0, skip="*.bias"),
    ],
)
def test_settings_build_the_method_again(method: NoisyTune) -> None:
    assert type(method)(**method.settings()) == method
    assert type(method)(**method.changed_settings()) == method


def test_where_nothing_would_move_it_says_so() -> None:
    model = tiny.bert()
    model.bert.requires_grad_(False)
    with pytest.raises(MethodError, match=r"no effect on BertForSequenceClassification: .*\(frozen, new head\)"):
        noisytune().transform(model, seed=5)


def test_peft_is_refused_with_what_to_do() -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny.bert(), LoraConfig(target_modules=["query"], task_type="SEQ_CLS"))
    before = tiny.weights(model)
    for method in (noisytune(), noisytune(scope="global")):
        with pytest.raises(MethodError, match="perturb_weights") as error:
            method.transform(model, seed=5)
        assert "\n" not in str(error.value)
    assert moved(before, model) == set()
