"""XTREME: trained on English, evaluated on every language; and SQuAD, on which its question answering trains.

The English rows are the splits `train`, `validation` and `test`, those of another language `validation_<language>`
and `test_<language>`. XNLI trains on MNLI, XQuAD and MLQA on SQuAD.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from steadytune.tasks.named.glue import HUB as GLUE_HUB
from steadytune.tasks.named.glue import NLI_LABELS
from steadytune.tasks.task import Head, SplitSource, Task

FAMILY = "XTREME"
XTREME = "Hu et al. (2020), XTREME, https://arxiv.org/abs/2003.11080"
_XTREME_HUB = "google/xtreme"

XNLI_LANGUAGES = ("en", "ar", "bg", "de", "el", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")
PAWSX_LANGUAGES = ("en", "de", "es", "fr", "ja", "ko", "zh")
XQUAD_LANGUAGES = ("en", "ar", "de", "el", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh")
MLQA_LANGUAGES = ("en", "ar", "de", "es", "hi", "vi", "zh")
BUCC_LANGUAGES = ("de", "fr", "ru", "zh")
_PANX = (
    "en af ar bg bn de el es et eu fa fi fr he hi hu id it ja jv ka kk ko ml mr ms my nl pt ru sw ta te th tl tr ur "
    "vi yo zh"
)
_PUD = "ar cs de es fi hi id is it ja ko pl pt ru sv th tr zh"
_TATOEBA = (
    "af=afr ar=ara bg=bul bn=ben de=deu el=ell es=spa et=est eu=eus fa=pes fi=fin fr=fra he=heb hi=hin hu=hun id=ind "
    "it=ita ja=jpn jv=jav ka=kat kk=kaz ko=kor ml=mal mr=mar nl=nld pt=por ru=rus sw=swh ta=tam te=tel th=tha tl=tgl "
    "tr=tur ur=urd vi=vie zh=cmn"
)
_UNIVERSAL = "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X"
PANX_LANGUAGES = tuple(_PANX.split())
#: The treebank of each language's test rows; all but Sequoia are of the same thousand sentences.
UDPOS_TREEBANKS = {"fr": "fr_sequoia"} | {language: f"{language}_pud" for language in _PUD.split()}
#: How an `id` of TyDi QA begins.
TYDIQA_LANGUAGES = {
    "en": "english",
    "ar": "arabic",
    "bn": "bengali",
    "fi": "finnish",
    "id": "indonesian",
    "ko": "korean",
    "ru": "russian",
    "sw": "swahili",
    "te": "telugu",
}
#: The Hub's three-letter code of each language.
TATOEBA_LANGUAGES = {pair[:2]: pair[3:] for pair in _TATOEBA.split()}
UNIVERSAL_TAGS = tuple(_UNIVERSAL.split())
PANX_TAGS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")


def _split(kind: str, language: str) -> str:
    return kind if language == "en" else f"{kind}_{language}"


def _each(
    languages: Iterable[str], kinds: Mapping[str, str], folder: str, hub_id: str, config: str = "{}"
) -> list[SplitSource]:
    """The same splits in every language; `kinds` maps our names to the Hub's."""
    return [
        SplitSource(_split(ours, code), f"{folder}/{code}/{theirs}", hub_id, config.format(code), theirs, code)
        for ours, theirs in kinds.items()
        for code in languages
    ]


def _task(
    name: str,
    head: Head,
    columns: tuple[str, str | None, str],
    labels: tuple[str, ...] | None,
    metrics: tuple[str, ...],
    *,
    description: str,
    citation: str,
    sources: Iterable[SplitSource],
    evaluation_only: bool = False,
    family: str = FAMILY,
) -> Task:
    sources = tuple(sources)
    return Task(
        name=name,
        head=head,
        description=description,
        citation=f"{citation}; in {XTREME}" if family == FAMILY else citation,
        text_column=columns[0],
        text_pair_column=columns[1],
        label_column=columns[2],
        label_names=labels,
        splits={source.split: f"the rows of {source.file}" for source in sources},
        metric=metrics[0],
        metrics=metrics,
        family=family,
        evaluation_only=evaluation_only,
        sources=sources,
    )


_SQUAD_TRAIN = SplitSource("train", "squad/train", "rajpurkar/squad", "plain_text", "train", "en")
_SQUAD_COLUMNS = ("question", "context", "answers")
_ANSWERS = ("f1", "exact_match")
_TEST = {"validation": "validation", "test": "test"}


def _tydiqa_sources() -> list[SplitSource]:
    """TyDi QA has all languages in one split on the Hub; its Swahili training rows serve as a test of transfer."""

    def source(split: str, code: str, theirs: str) -> SplitSource:
        prefix = f"{TYDIQA_LANGUAGES[code]}-"
        file = f"tydiqa_goldp/{code}/{theirs}"
        return SplitSource(
            split, file, "google-research-datasets/tydiqa", "secondary_task", theirs, code, identifier_prefix=prefix
        )

    validation = [source(_split("validation", code), code, "validation") for code in TYDIQA_LANGUAGES]
    return [source("train", "en", "train"), *validation, source("test_sw", "sw", "train")]


def _udpos_sources() -> list[SplitSource]:
    def source(split: str, treebank: str, theirs: str, out_of_domain: bool = False) -> SplitSource:
        hub = "universal-dependencies/universal_dependencies"
        theirs_there = "dev" if theirs == "validation" else theirs
        language = treebank[:2]
        file = f"udpos/{treebank}/{theirs}"
        return SplitSource(split, file, hub, treebank, theirs_there, language, out_of_domain=out_of_domain)

    english = [source(split, "en_ewt", split) for split in ("train", "validation", "test")]
    others = [source(f"test_{code}", treebank, "test") for code, treebank in UDPOS_TREEBANKS.items()]
    return [*english, source("test_pud", "en_pud", "test", out_of_domain=True), *others]


TASKS = (
    _task(
        "xnli",
        "classification",
        ("premise", "hypothesis", "label"),
        NLI_LABELS,
        ("accuracy",),
        description="Does the premise entail the hypothesis, contradict it or neither? 15 languages; trained on MNLI.",
        citation="Conneau et al. (2018), XNLI, https://arxiv.org/abs/1809.05053",
        sources=[
            SplitSource("train", "glue/mnli/train", GLUE_HUB, "mnli", "train", "en"),
            *_each(XNLI_LANGUAGES, _TEST, "xnli", "facebook/xnli"),
        ],
    ),
    _task(
        "paws-x",
        "classification",
        ("sentence1", "sentence2", "label"),
        ("different", "paraphrase"),
        ("accuracy",),
        description="Do two sentences of nearly the same words mean the same? 7 languages.",
        citation="Yang et al. (2019), PAWS-X, https://arxiv.org/abs/1908.11828",
        sources=[
            SplitSource("train", "pawsx/en/train", "google-research-datasets/paws-x", "en", "train", "en"),
            *_each(PAWSX_LANGUAGES, _TEST, "pawsx", "google-research-datasets/paws-x"),
        ],
    ),
    _task(
        "udpos",
        "token_classification",
        ("tokens", None, "upos"),
        UNIVERSAL_TAGS,
        ("f1", "accuracy"),
        description="Which universal part of speech is each word? Trained on English EWT, tested on other treebanks.",
        citation="de Marneffe et al. (2021), Universal Dependencies, https://universaldependencies.org",
        sources=_udpos_sources(),
    ),
    _task(
        "pan-x",
        "token_classification",
        ("tokens", None, "ner_tags"),
        PANX_TAGS,
        ("f1", "precision", "recall"),
        description="Which words name a person, an organization or a place? 40 languages, Wikipedia.",
        citation="Pan et al. (2017), WikiAnn, https://aclanthology.org/P17-1178; Rahimi et al. (2019)",
        sources=[
            SplitSource("train", "panx/en/train", _XTREME_HUB, "PAN-X.en", "train", "en"),
            *_each(PANX_LANGUAGES, _TEST, "panx", _XTREME_HUB, "PAN-X.{}"),
        ],
    ),
    _task(
        "squad",
        "question_answering",
        _SQUAD_COLUMNS,
        None,
        _ANSWERS,
        description="Which words of the paragraph answer the question?",
        citation="Rajpurkar et al. (2016), SQuAD 1.1, https://arxiv.org/abs/1606.05250",
        sources=[
            _SQUAD_TRAIN,
            SplitSource("validation", "squad/validation", "rajpurkar/squad", "plain_text", "validation", "en"),
        ],
        family="question answering",
    ),
    _task(
        "xquad",
        "question_answering",
        _SQUAD_COLUMNS,
        None,
        _ANSWERS,
        description="SQuAD questions translated into 11 languages; trained on SQuAD.",
        citation="Artetxe et al. (2020), XQuAD, https://arxiv.org/abs/1910.11856",
        sources=[
            _SQUAD_TRAIN,
            *_each(XQUAD_LANGUAGES, {"validation": "validation"}, "xquad", "google/xquad", "xquad.{}"),
        ],
    ),
    _task(
        "mlqa",
        "question_answering",
        _SQUAD_COLUMNS,
        None,
        _ANSWERS,
        description="Questions on Wikipedia in 7 languages, question and paragraph in the same one; trained on SQuAD.",
        citation="Lewis et al. (2020), MLQA, https://arxiv.org/abs/1910.07475",
        sources=[_SQUAD_TRAIN, *_each(MLQA_LANGUAGES, _TEST, "mlqa", _XTREME_HUB, "MLQA.{0}.{0}")],
    ),
    _task(
        "tydiqa",
        "question_answering",
        _SQUAD_COLUMNS,
        None,
        _ANSWERS,
        description="TyDi QA's gold passage task: questions in 9 languages by their speakers; trained on English.",
        citation="Clark et al. (2020), TyDi QA, https://arxiv.org/abs/2003.05002",
        sources=_tydiqa_sources(),
    ),
    _task(
        "bucc",
        "retrieval",
        ("source_sentence", "target_sentence", ""),
        None,
        ("f1", "precision", "recall"),
        description="Find the translations among the sentences of two languages, by mean-pooled sentence vectors.",
        citation="Zweigenbaum et al. (2018), BUCC, https://comparable.limsi.fr/bucc2018",
        sources=_each(BUCC_LANGUAGES, _TEST, "bucc", _XTREME_HUB, "bucc18.{}"),
        evaluation_only=True,
    ),
    _task(
        "tatoeba",
        "retrieval",
        ("source_sentence", "target_sentence", ""),
        None,
        ("accuracy",),
        description="Find the English translation of each sentence, by mean-pooled sentence vectors; 36 languages.",
        citation="Artetxe and Schwenk (2019), LASER, https://arxiv.org/abs/1812.10464",
        sources=[
            SplitSource(
                f"validation_{code}", f"tatoeba/{code}/validation", _XTREME_HUB, f"tatoeba.{iso}", "validation", code
            )
            for code, iso in TATOEBA_LANGUAGES.items()
        ],
        evaluation_only=True,
    ),
)
