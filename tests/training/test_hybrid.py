"""The hybrid network: pronouns found by alignment, its two scores and its loss against slow arithmetic, its runs."""

from __future__ import annotations

import json
import math
import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from helpers import tiny
from helpers.glue_rows import bert_config, language_model, language_model_folder, pronouns, tokenizer_in, write_wnli
from safetensors.torch import load_file
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor
from transformers import (
    AutoModelForMaskedLM,
    BertModel,
    RobertaTokenizerFast,
)

from steadytune import Stack
from steadytune.cli import main
from steadytune.core.model.pretrained import pretrained_parameters
from steadytune.errors import DataError, HostError, ModelNotFoundError, SettingsError
from steadytune.methods.registry import all_methods, build_methods
from steadytune.models.hybrid import HybridLoss, HybridNetwork
from steadytune.settings.hybrid import HybridSettings
from steadytune.training.hybrid.encoding import PronounEncoder
from steadytune.training.hybrid.questions import PronounQuestion, align, pronoun_questions
from steadytune.training.hybrid.run import load_language_model, train_hybrid
from steadytune.training.reporter import Silent
from steadytune.training.skeleton import Interrupted

WNLI = Path(__file__).parents[3] / "shared" / "data" / "glue" / "wnli"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT with a masked-language-model head, with dropout."""
    place = tmp_path_factory.mktemp("language-model") / "tiny"
    return language_model_folder(place)


@pytest.fixture
def encoder(tmp_path: Path) -> PronounEncoder:
    return PronounEncoder(tokenizer_in(tmp_path / "tokenizer"), 40)


def network(dropout: float = 0.0, dtype: torch.dtype = torch.float32, **weights: float) -> HybridNetwork:
    build = lambda: HybridNetwork(language_model(dropout, dtype), HybridLoss(**weights))  # noqa: E731
    model = tiny.seeded(build, 1, dtype)
    with torch.no_grad():
        model.query.weight.mul_(10)
    return model


def asked(premise: str, pronoun: str, candidates: tuple[str, ...], labels: tuple[int, ...]) -> PronounQuestion:
    start = premise.split().index(pronoun)
    start = len(" ".join([*premise.split()[:start], ""]))
    rows = tuple((row,) for row in range(len(candidates)))
    return PronounQuestion(premise, start, start + len(pronoun), candidates, labels, rows)


QUESTIONS = [
    asked("The cat hit the old pots because it was red.", "it", ("The cat", "the old pots"), (1, 0)),
    asked("It was big, the dog hit the tree.", "It", ("the dog", "the tree", "roof"), (0, 1, 0)),
    asked("The ball was blue, it hit the dog.", "it", ("the ball",), (0,)),
]


# ---------------------------------------------------------------- alignment


@pytest.mark.parametrize(
    ("premise", "hypothesis", "pronoun", "candidate"),
    [
        ("The drain is clogged. It has to be cleaned.", "The drain has to be cleaned.", (22, "It"), "The drain"),
        ("John took the water bottle so that he'd be lighter.", "John'd be lighter.", (35, "he"), "John"),
        ("Ann saw Jane, and it's said she'll win.", "Jane'll win.", (28, "she"), "Jane"),
        ("I took it out, so that it would dry, of the bag.", "The bag would dry.", (23, "it"), "the bag"),
        ("Fred and Alice had coats, but they were cold.", "Fred and Alice were cold.", (30, "they"), "Fred and Alice"),
        ("Madonna fired her trainer.", "Madonna fired Madonna's trainer.", (14, "her"), "Madonna's"),
        ("The tree fell. Now, I have it removed.", "Now I have the tree removed.", (27, "it"), "The tree"),
        ("A man saw John. He was impressive.", "The man was impressive.", (16, "He"), "the man"),
    ],
)
def test_the_pronoun_and_its_candidate_are_found(
    premise: str, hypothesis: str, pronoun: tuple[int, str], candidate: str
) -> None:
    found = align(premise, hypothesis)
    assert found is not None
    assert (found.start, premise[found.start : found.end]) == pronoun
    assert found.candidate == candidate


@pytest.mark.parametrize(
    ("premise", "hypothesis"),
    [
        ("There is a gap in the wall. You can see the garden behind it.", "You can see the garden through the wall."),
        ("The bank was robbed. It was big.", "The house was big."),  # no house in the premise
        ("The cat slept.", "The cat slept."),  # no pronoun
        ("The cat slept and it woke.", ""),
        ("", "The cat slept."),
        ("It rained.", "It rained."),
    ],
)
def test_what_is_no_substitution_is_not_aligned(premise: str, hypothesis: str) -> None:
    assert align(premise, hypothesis) is None


def test_every_row_is_in_a_question_or_unaligned() -> None:
    rows = [*pronouns(20), ("The cat slept.", "The dog slept.", 0)]
    questions, unaligned = pronoun_questions(*map(list, zip(*rows, strict=True)))
    asked = [row for q in questions for own in q.rows for row in own]
    assert sorted([*asked, *unaligned]) == list(range(len(rows)))
    assert unaligned == [40]
    for question in questions:
        for candidate, label, own in zip(question.candidates, question.labels, question.rows, strict=True):
            for row in own:
                assert rows[row][1].casefold().startswith(candidate.casefold())
                assert rows[row][2] == label


def test_rivals_come_from_twins_and_bring_no_label() -> None:
    first, twin = "The cat hit the dog because it was red.", "The cat hit the dog because it was blue."
    known, _ = pronoun_questions([first, first], ["The cat was red.", "The dog was red."], [1, 0])
    right, _ = pronoun_questions([twin], ["The dog was blue."], [1], known)
    wrong, _ = pronoun_questions([twin], ["The cat was blue."], [0], known)
    other, _ = pronoun_questions(["The pot hit the dog because it was blue."], ["The dog was blue."], [1], known)
    assert (right[0].candidates, right[0].labels, right[0].rows) == (("the dog", "The cat"), (1, 0), ((0,), ()))
    assert (wrong[0].candidates, wrong[0].labels) == (("The cat", "the dog"), (0, -1))
    assert other[0].candidates == ("the dog",)


@pytest.mark.skipif(not WNLI.is_dir(), reason="needs ../shared/data/glue/wnli")
def test_nearly_all_of_wnli_aligns() -> None:
    found = {}
    known: list[PronounQuestion] = []
    for split in ("train", "validation"):
        rows = pq.read_table(WNLI / f"{split}.parquet").to_pydict()
        questions, unaligned = pronoun_questions(rows["sentence1"], rows["sentence2"], rows["label"], known)
        known = known or questions
        aligned = sum(len(own) for q in questions for own in q.rows)
        assert aligned + len(unaligned) == len(rows["label"])
        found[split] = (len(rows["label"]), aligned, len(questions))
        # Winograd's own rule, which the alignment knows nothing of: a pronoun stands for one thing.
        asked = [[y for y, own in zip(q.labels, q.rows, strict=True) if own] for q in questions]
        assert Counter(sum(labels) for labels in asked if len(labels) > 1) == {1: sum(len(x) > 1 for x in asked)}
    assert found == {"train": (635, 603, 329), "validation": (71, 68, 64)}
    assert all(len(question.candidates) > 1 for question in questions)


# ---------------------------------------------------------------- encoding


def test_masks_and_places_are_those_of_candidate_and_pronoun(encoder: PronounEncoder) -> None:
    tokenizer = encoder.tokenizer
    words = lambda ids: tokenizer.decode(ids)  # noqa: E731
    for question in QUESTIONS:
        for text, c in zip(question.candidates, encoder.features(question)["candidates"], strict=True):
            assert words(c.tokens) == text.lower()
            filled = list(c.masked)
            for i, token in zip(
                [i for i, t in enumerate(filled) if t == tokenizer.mask_token_id], c.tokens, strict=True
            ):
                filled[i] = token
            expected = question.premise[: question.start] + text + question.premise[question.end :]
            assert filled == tokenizer(expected)["input_ids"]
            assert words([c.pair[i] for i in c.pronoun]) == question.premise[question.start : question.end].lower()
            assert words([c.pair[i] for i in c.candidate]) == text.lower()
            assert c.pair == tokenizer(question.premise, text)["input_ids"]


def test_byte_level_tokens_are_those_of_the_whole_sentence(tmp_path: Path) -> None:
    """A word has another token at the beginning of a text: the filled-in tokens are those it has in its place."""
    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator([q.premise for q in QUESTIONS] * 20, vocab_size=400, special_tokens=special)
    trained.save_model(str(tmp_path))
    tokenizer = RobertaTokenizerFast(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    encoder = PronounEncoder(tokenizer, 60)
    for question in QUESTIONS:
        for c in encoder.features(question)["candidates"]:
            filled = list(c.masked)
            at = [i for i, token in enumerate(filled) if token == tokenizer.mask_token_id]
            for i, token in zip(at, c.tokens, strict=True):
                filled[i] = token
            written = tokenizer.decode(filled, skip_special_tokens=True)
            before, after = question.premise[: question.start], question.premise[question.end :]
            assert written.startswith(before)
            assert written.endswith(after)
            assert filled == tokenizer(written)["input_ids"]
            assert (
                tokenizer.decode([c.pair[i] for i in c.pronoun]).strip()
                == question.premise[question.start : question.end]
            )
            assert c.kinds == []
    assert encoder.batch([encoder.features(q) for q in QUESTIONS])["input_ids"].shape[0] == 12


def test_what_is_too_long_or_has_no_mask_is_refused(encoder: PronounEncoder) -> None:
    with pytest.raises(DataError, match="--max-length 10: a premise with its candidate has 17 tokens"):
        PronounEncoder(encoder.tokenizer, 10).features(QUESTIONS[0])
    encoder.tokenizer.mask_token = None
    with pytest.raises(SettingsError, match="fast tokenizer with a mask token"):
        PronounEncoder(encoder.tokenizer, 40)


def test_training_leaves_out_what_no_row_tells(encoder: PronounEncoder) -> None:
    question = asked("The cat hit the dog because it was red.", "it", ("The cat", "the dog"), (0, -1))
    assert encoder.known(question)["labels"] == [0]
    assert len(encoder.known(question)["candidates"]) == 1
    assert encoder.features(question)["labels"] == [0, -1]


# ---------------------------------------------------------------- scores and loss


def dot(first: Sequence[float], second: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(first, second, strict=True))


def slow_scores(model: HybridNetwork, encoder: PronounEncoder, question: PronounQuestion) -> list[tuple[float, float]]:
    """Of each candidate the two scores, one text at a time, without padding, in the arithmetic of Python."""
    found = []
    for c in encoder.features(question)["candidates"]:
        with torch.no_grad():
            logits = model.language_model(input_ids=torch.tensor([c.masked])).logits[0].tolist()
            kinds = torch.tensor([c.kinds])
            out = model.language_model(
                input_ids=torch.tensor([c.pair]), token_type_ids=kinds, output_hidden_states=True
            )
        masks = [i for i, token in enumerate(c.masked) if token == encoder.tokenizer.mask_token_id]
        logs = []
        for place, token in zip(masks, c.tokens, strict=True):
            logs.append(logits[place][token] - math.log(math.fsum(math.exp(x) for x in logits[place])))
        fill = math.exp(math.fsum(logs) / len(logs))
        hidden = out.hidden_states[-1][0].tolist()
        matrix = model.query.weight.tolist()
        query = [dot(row, hidden[0]) for row in matrix]
        products = [dot(query, hidden[i]) / math.sqrt(len(query)) for i in c.candidate]
        attention = [math.exp(x) / math.fsum(math.exp(y) for y in products) for x in products]
        columns = list(zip(*(hidden[i] for i in c.candidate), strict=True))
        vector = [dot(attention, column) for column in columns]
        pronoun = [math.fsum(hidden[i][d] for i in c.pronoun) / len(c.pronoun) for d in range(len(query))]
        found.append((fill, dot(vector, pronoun) / math.sqrt(dot(vector, vector) * dot(pronoun, pronoun))))
    return found


def slow_loss(scores: list[list[tuple[float, float]]], labels: list[list[int]], weights: HybridLoss) -> float:
    """The loss from the scores, by the description."""
    beta, gamma = weights.margin, weights.sharpness

    def ranking(values: list[float], known: list[int]) -> float:
        raised = [gamma * (v + beta * (y == 0)) for v, y in zip(values, known, strict=True)]
        return -raised[known.index(1)] + math.log(math.fsum(math.exp(x) for x in raised))

    answered = [(s, y) for s, y in zip(scores, labels, strict=True) if 1 in y]
    likelihood = [-math.log(s[y.index(1)][0]) for s, y in answered]
    fill = [ranking([p for p, _ in s], y) for s, y in answered]
    both = [ranking([(p + (1 + c) / 2) / 2 for p, c in s], y) for s, y in answered]
    binary = []
    for s, y in zip(scores, labels, strict=True):
        for (_, cosine), label in zip(s, y, strict=True):
            logit = gamma * cosine if label else -gamma * (cosine + beta)
            binary.append(math.log1p(math.exp(-logit)))
    mean = lambda values: math.fsum(values) / len(values)  # noqa: E731
    return mean(likelihood) + weights.ranking_weight * mean(fill) + mean(binary) + mean(both)


@pytest.mark.parametrize("weights", [HybridLoss(), HybridLoss(ranking_weight=3.0, margin=0.2, sharpness=4.0)])
def test_scores_and_loss_are_those_of_slow_arithmetic(encoder: PronounEncoder, weights: HybridLoss) -> None:
    model = network(
        dtype=torch.float64,
        ranking_weight=weights.ranking_weight,
        margin=weights.margin,
        sharpness=weights.sharpness,
    ).eval()
    with torch.no_grad():
        out = model(**encoder.batch([encoder.features(q) for q in QUESTIONS]))
    scores = [slow_scores(model, encoder, question) for question in QUESTIONS]
    assert out.logits.shape == (3, 3)
    for row, own in enumerate(scores):
        for column, (fill, cosine) in enumerate(own):
            assert float(out.fill[row, column]) == pytest.approx(fill, rel=1e-9)
            assert float(out.similarity[row, column]) == pytest.approx((1 + cosine) / 2, rel=1e-9)
            expected = weights.sharpness * (fill + (1 + cosine) / 2) / 2
            assert float(out.logits[row, column]) == pytest.approx(expected, rel=1e-9)
        assert bool((out.logits[row, len(own) :] < -1000).all())
    labels = [list(question.labels) for question in QUESTIONS]
    assert float(out.loss) == pytest.approx(slow_loss(scores, labels, weights), rel=1e-9)


def test_a_question_without_a_right_candidate_trains_the_similarity_only(encoder: PronounEncoder) -> None:
    model = network(dtype=torch.float64).eval()
    with torch.no_grad():
        out = model(**encoder.batch([encoder.features(QUESTIONS[2])]))
    ((_, cosine),) = slow_scores(model, encoder, QUESTIONS[2])
    assert float(out.loss) == pytest.approx(math.log1p(math.exp(cosine + 0.5)), rel=1e-9)


def test_only_the_projection_is_new() -> None:
    model = network()
    new = {name for name, _ in model.named_parameters()} - pretrained_parameters(model)
    assert new == {"query.weight"}
    assert model.get_input_embeddings() is model.language_model.bert.embeddings.word_embeddings


def test_smart_terms_are_those_of_the_definition(encoder: PronounEncoder) -> None:
    """Bregman with a teacher that has been moved: the mean over the questions of the symmetric KL."""
    model = network(dtype=torch.float64, sharpness=5.0)
    batch = encoder.batch([encoder.features(q) for q in QUESTIONS])
    stack = Stack(build_methods(["bregman"], {}))
    stack.prepare(model, total_updates=4)
    other = network(dtype=torch.float64, sharpness=5.0)
    with torch.no_grad():
        for name, tensor in next(iter(stack.teacher_weights().values())).items():
            tensor.mul_(1.1)
            dict(other.named_parameters())[name].mul_(1.1)
        log_p, log_q = (m(**batch).logits.log_softmax(1) for m in (model, other))
    stack.loss(model, batch)
    expected = ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(1).mean()
    assert stack.take_logs()["bregman"] == pytest.approx(float(expected), rel=1e-6)
    assert float(expected) > 1e-6
    stack.close()


@pytest.mark.parametrize("name", sorted(all_methods()))
def test_every_method_trains_it(encoder: PronounEncoder, name: str) -> None:
    model = network(dropout=0.1)
    batch = encoder.batch([encoder.features(q) for q in QUESTIONS])
    before = tiny.weights(model)
    stack = Stack(build_methods([name], {}), seed=1)
    stack.prepare(model, total_updates=4, batches=lambda: iter([batch]))
    optimizer = stack.optimizer(torch.optim.AdamW(model.parameters(), lr=1e-2))
    if name == "smart.frugal":  # a question has as many rows as candidates, which need not be equally many
        with pytest.raises(HostError, match="has no row for each of the 3 examples"):
            stack.backward(model, batch)
        return
    scheduler = stack.scheduler(optimizer)
    for _ in range(4):
        stack.backward(model, batch)
        optimizer.step()
        optimizer.zero_grad()
        if scheduler is not None:
            scheduler.step()
    stack.finish()
    after = tiny.weights(model)
    assert all(bool(torch.isfinite(p).all()) for p in after.values())
    assert tiny.differences(before, after)


# ---------------------------------------------------------------- runs


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_wnli(tmp_path / "data")


@pytest.fixture
def options(data: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    return {
        "model": str(folder),
        "data_dir": str(data),
        "methods": "smart",
        "num_train_epochs": 2.0,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "use_cpu": True,
        "output_dir": "run",
    }


@pytest.fixture
def settings(options: dict[str, Any]) -> Callable[..., HybridSettings]:
    return lambda **changes: HybridSettings(**options | changes)


def saved(place: str) -> dict[str, Tensor]:
    return load_file(f"{place}/model/model.safetensors") | load_file(f"{place}/hybrid.safetensors")


class StopAfter(Silent):
    """Presses Ctrl-C once when so many updates are done."""

    def __init__(self, updates: int) -> None:
        self.updates = updates

    def step(self, done: int, loss: float | None) -> None:
        if done == self.updates and loss is None:
            self.updates = -1
            os.kill(os.getpid(), signal.SIGINT)


def test_it_learns_which_noun_is_meant(settings) -> None:
    result = train_hybrid(settings(methods="none", num_train_epochs=12))
    before, after = (result.metrics[when]["validation"] for when in ("before", "after"))
    assert after["accuracy_aligned"] >= 0.9 > before["accuracy_aligned"]
    assert after["rows"] == 17
    # The row that asks for no pronoun gets the label that most training rows have, which is right here.
    assert after["accuracy"] == pytest.approx((after["accuracy_aligned"] * 16 + 1) / 17)


def test_the_folder_holds_language_model_counts_and_scores(settings) -> None:
    result = train_hybrid(settings())
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics == json.loads(json.dumps(result.metrics))
    assert metrics["alignment"]["validation"]["rows"] == 17
    assert metrics["alignment"]["validation"]["aligned"] == 16
    assert metrics["alignment"]["train"]["aligned"] == 32
    loaded = AutoModelForMaskedLM.from_pretrained("run/model")
    kept = load_file("run/model/model.safetensors")
    assert tiny.differences({name: loaded.state_dict()[name] for name in kept}, kept) == []
    assert load_file("run/hybrid.safetensors")["query.weight"].shape == (tiny.WIDTH, tiny.WIDTH)
    assert train_hybrid(settings()).was_finished


@pytest.mark.parametrize("asked_after", [1, 3, 5])
def test_a_stopped_run_goes_on_bit_for_bit(settings, asked_after: int) -> None:
    train_hybrid(settings(output_dir="whole"))
    with pytest.raises(Interrupted):
        train_hybrid(settings(), StopAfter(asked_after))
    train_hybrid(settings())
    assert tiny.differences(saved("run"), saved("whole")) == []


def test_no_strength_is_plain_training(settings) -> None:
    train_hybrid(settings(set={"smart.weight": 0.0, "smart.proximal_weight": 0.0}))
    train_hybrid(settings(methods="none", output_dir="plain"))
    assert tiny.differences(saved("run"), saved("plain")) == []


def test_a_checkpoint_without_the_head_is_refused(tmp_path: Path, capsys) -> None:
    tokenizer_in(tmp_path / "body")
    tiny.seeded(lambda: BertModel(bert_config()), 0).save_pretrained(tmp_path / "body")
    with pytest.raises(ModelNotFoundError, match=r"holds no whole masked language model, cls\.predictions"):
        load_language_model(str(tmp_path / "body"))


def test_the_command_prints_counts_and_scores(options, capsys) -> None:
    pairs = [part for k, v in options.items() if v is not True for part in (f"--{k.replace('_', '-')}", str(v))]
    assert main(["hybrid", "--use-cpu", *pairs]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "train: 32 of 33 rows put a candidate in the place of a pronoun" in shown
    assert "validation: 16 of 17 rows" in shown
    assert "accuracy" in shown


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--max-length", "8"], "--max-length 8: a premise with its candidate has"),
        (["--task", "wnli"], "No such option: --task"),
        (["--data-dir", "nowhere"], "nowhere"),
        (["--model", "minilm"], "--model minilm: holds no whole masked language model"),
        (["--margin", "-1"], "--margin: must be at least 0"),
    ],
)
def test_mistakes_are_one_line(options, more: list[str], message: str, capsys) -> None:
    given = {k: v for k, v in options.items() if f"--{k.replace('_', '-')}" not in more}
    pairs = [part for k, v in given.items() if v is not True for part in (f"--{k.replace('_', '-')}", str(v))]
    assert main(["hybrid", "--use-cpu", *pairs, *more]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("run").exists()
