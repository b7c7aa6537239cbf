"""Does a response follow the verifiable instructions of IFEval?"""

import json
import random
import time
from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import Fault, Outcome, verify, verify_answer
from filters.verifiers import OptionError, check_options, instruction
from filters.verifiers.instruction_checks import INSTRUCTIONS
from filters.verifiers.instruction_counts import count_capital_words, count_sentences, count_words
from filters.verifiers.instruction_language import LANGUAGES, is_written_in
from filters.workers import GradeTask, WorkerPool
from tests.shared_data import DATA

ENGLISH = "the dog sat on the mat and it was happy with what we had given to it."
Case = tuple[str, dict[str, Any], list[str], list[str]]

TABLE: list[Case] = [
    # instruction, its arguments, responses that follow it, responses that do not
    (
        "keywords:existence",
        {"keywords": ["river", "C++"]},
        ["A River of c++.", "rivers, C++"],
        ["A river of c.", "C++", "riv er C++"],
    ),
    (
        "keywords:frequency",
        {"keyword": "fake", "frequency": 2, "relation": "at least"},
        ["Fake, faked."],
        ["Fake.", "f ake fake"],
    ),
    (
        "keywords:frequency",
        {"keyword": "fake", "frequency": 2, "relation": "less than"},
        ["One fake.", "None."],
        ["fake fake", "fakefake"],
    ),
    (
        "keywords:forbidden_words",
        {"forbidden_words": ["rock", "$5"]},
        ["Rocks for $50.", "rocket 5"],
        ["A ROCK.", "It costs $5."],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "q", "let_frequency": 2, "let_relation": "at least"},
        ["Quiet quay"],
        ["Quiet"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "#", "let_frequency": 2, "let_relation": "less than"},
        ["#one", "none"],
        ["#one #two"],
    ),
    (
        "language:response_language",
        {"language": "de"},
        ["Der Hund ist nicht in dem Haus, und die Katze ist auch nicht da."],
        [ENGLISH, "De hond is niet in het huis en de kat is er ook niet.", "犬は家にいません。", "12 + 3"],
    ),
    (
        "language:response_language",
        {"language": "ne"},
        ["म नेपाल मा बस्छु र यो मेरो घर हो। तपाईं को घर पनि धेरै राम्रो छ।"],
        ["मैं भारत में रहता हूँ और यह मेरा घर है। आप का घर भी बहुत अच्छा है।", ENGLISH],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "at least"},
        ["One. Two! Three?", "One. Two.\n\nThree"],
        ["One. Dr. Two", "1. One\n2. Two\n3. Three."],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "less than"},
        ["It costs 3.50 in the U.S. market, e.g. today."],
        ["One. Two."],
    ),
    (
        "length_constraints:number_words",
        {"num_words": 4, "relation": "at least"},
        ["one two three four"],
        ["one two three", "- - - -"],
    ),
    (
        "length_constraints:number_words",
        {"num_words": 4, "relation": "less than"},
        ["मेरा नाम हिन्दी"],
        ["it's two words"],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["one\n***\ntwo", "***\none\n***\ntwo\n***"],
        ["one\n\ntwo", "one\n***\n***\ntwo", "one *** two *** three"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "weekend"},
        ["One.\n\nWeekend, two.", 'One.\n\n\n\n"Weekend" is two.'],
        ["One.\n\nWeekends are two.", "Weekend.\n\nTwo.", "One.\n\nWeekend.\n\nThree.", "Weekend"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[name] of [address]", "[a][b]"],
        ["[name]", "[name] [address", "[na\nme] [address]"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["Bye.\n\nP.S. More.", "Bye. p. s. more"],
        ["Bye.", "PS: more"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.P.S"},
        ["Bye.\nP.P.S more", "P. P. S."],
        ["Bye.\nP.S. more"],
    ),
    ("detectable_content:postscript", {"postscript_marker": "N.B."}, ["n.b. more"], ["nxbx more"]),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* one\n* two", "List:\n\n  - one\n\n  - two", "* one\n- two"],
        ["* one", "**one**\n**two**", "* one\n* two\n* three", "one * two * three"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is maybe.", "Well. My answer is no."],
        ["Yes.", "my answer is yes", "My answer is yes"],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*one* and *two*", "*one* **two**"],
        ["*one*", "* one\n* two", "** **"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1\nx\nSECTION 2\ny", "SECTION1 SECTION\n2"],
        ["Section 1\nx\nSection 2\ny", "SECTION 1", "SECTION one SECTION two"],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": [1, 2.5, null]}', '```json\n{"a": 1}\n```', '```\n"a"\n```', "[" + "1" * 5000 + "]"],
        ["{'a': 1}", 'Here: {"a": 1}', '{"a": 1', "```json\n```", '{"a": 1} ```json'],
    ),
    (
        "detectable_format:title",
        {},
        ["<<A title>>\ntext", "Text << t >> text"],
        ["<A title>", "<<>>", "<< >>", "<<A\ntitle>>", ">>a<<"],
    ),
    (
        "combination:two_responses",
        {},
        ["one\n******\ntwo", "******\none\n******\ntwo"],
        ["one", "one\n******\none", "one ****** two ****** three", "one\n***\ntwo", "one ****** ****** two"],
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Write a song."},
        ["Write a song.\n\nLa la.", "  write a song. La."],
        ["Sure! Write a song.", "Write a  song.", "La la."],
    ),
    (
        "startend:end_checker",
        {"end_phrase": "That is all!"},
        ["Bye. That is all!", '"Bye. that is ALL!"\n'],
        ["That is all! Bye.", "That is all"],
    ),
    ("startend:quotation", {}, ['"Hello."', ' "Hello." \n'], ['"Hello', "Hello", '"', "“Hello.”", "'Hello.'"]),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["NASA and I", "WELL-BEING, 5K"],
        ["NASA and i", "Nasa Nasa", "5 6 7"],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "less than"},
        ["NASA is here"],
        ["**NASA** and I'm"],
    ),
    (
        "change_case:english_capital",
        {},
        [ENGLISH.upper()],
        [ENGLISH, ENGLISH.upper() + " x", "LE CHIEN EST DANS LA MAISON ET IL NE VEUT PAS SORTIR DE LA MAISON", "7"],
    ),
    (
        "change_case:english_lowercase",
        {},
        [ENGLISH],
        [ENGLISH.capitalize(), "le chien est dans la maison et il ne veut pas sortir de la maison", "7"],
    ),
    ("punctuation:no_comma", {}, ["No commas; none."], ["One, two", ","]),
]  # fmt: skip


def options(name: str, kwargs: Mapping[str, Any] | None, mode: str = "strict") -> dict[str, Any]:
    return {"instruction_id_list": [name], "kwargs": [kwargs], "mode": mode}


@pytest.mark.parametrize(("name", "kwargs", "text"), [(n, k, text) for n, k, yes, _ in TABLE for text in yes])
def test_followed(name: str, kwargs: dict[str, Any], text: str) -> None:
    verdict = verify_answer("instruction", "", None, text, options(name, kwargs))
    assert verdict.is_correct, verdict.explanation
    assert verdict.detail is not None and verdict.detail["strict"] == verdict.detail["loose"] == [True]


@pytest.mark.parametrize(("name", "kwargs", "text"), [(n, k, text) for n, k, _, no in TABLE for text in no])
def test_not_followed(name: str, kwargs: dict[str, Any], text: str) -> None:
    verdict = verify_answer("instruction", "", None, text, options(name, kwargs))
    assert verdict.outcome is Outcome.INCORRECT, verdict.explanation
    assert verdict.explanation.startswith(f"{name} is not followed: ")


def test_table_has_every_instruction() -> None:
    assert {name for name, _, _, _ in TABLE} == set(INSTRUCTIONS)
    assert all(yes and no for _, _, yes, no in TABLE)


@pytest.mark.parametrize(
    ("name", "kwargs", "text", "why"),
    [
        ("length_constraints:number_sentences", {"num_sentences": 5, "relation": "at least"}, "A b. C d. E f.",
         "3 sentences, fewer than 5"),
        ("length_constraints:number_words", {"num_words": 1, "relation": "less than"}, "One", "1 word, not fewer than 1"),
        ("keywords:existence", {"keywords": ["red", "tea"]}, "Red.", "without 'tea'"),
        ("startend:end_checker", {"end_phrase": "Bye!"}, "Hello you", "the end is ' you'"),
        ("language:response_language", {"language": "sw"}, ENGLISH, "the text is English, not Swahili"),
        ("punctuation:no_comma", {}, "a, b", "1 comma"),
    ],
)  # fmt: skip
def test_explanations(name: str, kwargs: dict[str, Any], text: str, why: str) -> None:
    verdict = verify_answer("instruction", "", None, text, options(name, kwargs))
    assert verdict.explanation == f"{name} is not followed: {why}".replace("' you'", "'you'")


def test_first_instruction_that_is_not_followed_is_named() -> None:
    both = {
        "instruction_id_list": ["startend:quotation", "punctuation:no_comma", "detectable_format:title"],
        "kwargs": [{}, {}, {}],
    }
    verdict = verify_answer("instruction", "", None, '"a, b"', both)
    assert verdict.explanation == "punctuation:no_comma is not followed: 1 comma"
    assert verdict.detail is not None
    assert verdict.detail["instruction_id_list"] == both["instruction_id_list"]
    assert verdict.detail["strict"] == [True, False, False]
    assert verdict.detail["why_not"][0] == ""
    assert json.loads(verdict.to_dict()["detail"]) == verdict.detail


LOOSE = [
    # a response that follows "begins and ends with a quotation mark" only without these parts
    'Sure:\n"Text"',
    '"Text"\nHope this helps',
    'Sure:\n"Text"\nHope this helps',
    '*"Text"*',
    '*Sure*\n*"Text"*',
    '*"Text"*\nHope',
    'Sure\n**"Text"**\nHope',
]


@pytest.mark.parametrize("text", LOOSE)
def test_loose_versions(text: str) -> None:
    strict = verify_answer("instruction", "", None, text, options("startend:quotation", {}))
    loose = verify_answer("instruction", "", None, text, options("startend:quotation", {}, "loose"))
    assert strict.outcome is Outcome.INCORRECT and loose.is_correct
    assert strict.detail == loose.detail
    assert strict.detail is not None and (strict.detail["strict"], strict.detail["loose"]) == (
        [False],
        [True],
    )


@pytest.mark.parametrize("text", ['Sure:\nand:\n"Text"', '"Text', "", " \n"])
def test_loose_is_not_everything(text: str) -> None:
    assert not verify_answer(
        "instruction", "", None, text, options("startend:quotation", {}, "loose")
    ).is_correct


def test_no_loose_version_is_empty() -> None:
    """Without its first line this response would be empty, and free of commas."""
    assert not verify_answer(
        "instruction", "", None, "a, b", options("punctuation:no_comma", {}, "loose")
    ).is_correct


def test_only_the_answer_is_looked_at() -> None:
    no_comma = options("punctuation:no_comma", {})
    verdict = verify("instruction", "", None, "<think>a, b</think>\n\nNone here.", no_comma)
    assert verdict.is_correct and verdict.extracted_answer == "None here."
    assert not verify("instruction", "", None, "<think>a b</think>\n\nOne, here.", no_comma).is_correct
    verdict = verify("instruction", "", None, "<think>never closed", no_comma)
    assert (verdict.outcome, verdict.fault) == (Outcome.UNPARSABLE, Fault.PREDICTION)


BAD = [
    ([], []),
    (["punctuation:no_comma"], []),
    (["punctuation:no_commas"], [{}]),
    ([7], [{}]),
    (["punctuation:no_comma"], [{"letter": "a"}]),
    (["punctuation:no_comma"], ["letter"]),
    (["startend:end_checker"], [{}]),
    (["startend:end_checker"], [None]),
    (["startend:end_checker"], [{"end_phrase": None}]),
    (["startend:end_checker"], [{"end_phrase": " "}]),
    (["keywords:existence"], [{"keywords": "river"}]),
    (["keywords:existence"], [{"keywords": []}]),
    (["keywords:existence"], [{"keywords": [1]}]),
    (["keywords:letter_frequency"], [{"letter": "ab", "let_frequency": 1, "let_relation": "at least"}]),
    (["keywords:letter_frequency"], [{"letter": "a", "let_frequency": -1, "let_relation": "at least"}]),
    (["keywords:letter_frequency"], [{"letter": "a", "let_frequency": 1.5, "let_relation": "at least"}]),
    (["keywords:letter_frequency"], [{"letter": "a", "let_frequency": True, "let_relation": "at least"}]),
    (["keywords:letter_frequency"], [{"letter": "a", "let_frequency": 1, "let_relation": "at most"}]),
    (["language:response_language"], [{"language": "not a language"}]),
    (["length_constraints:nth_paragraph_first_word"],
     [{"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"}]),
    (["length_constraints:nth_paragraph_first_word"],
     [{"num_paragraphs": 2, "nth_paragraph": 0, "first_word": "a"}]),
]  # fmt: skip


@pytest.mark.parametrize(("names", "kwargs"), BAD)
@pytest.mark.parametrize("text", ["", "a, b"])
def test_instructions_that_do_not_fit_are_the_prompts_fault(
    names: list[Any], kwargs: list[Any], text: str
) -> None:
    verdict = verify_answer("instruction", "", None, text, {"instruction_id_list": names, "kwargs": kwargs})
    assert (verdict.outcome, verdict.fault) == (Outcome.UNPARSABLE, Fault.GOLD)
    assert verdict.reward is None


def test_nulls_and_whole_floats_are_read() -> None:
    """As rows of a table with one column for every argument come."""
    kwargs = {"num_words": 2.0, "relation": "at least", "letter": None, "keywords": None}
    name = "length_constraints:number_words"
    assert verify_answer("instruction", "", None, "two words", options(name, kwargs)).is_correct


@pytest.mark.parametrize(
    ("given_options", "message"),
    [
        ({}, "needs option 'instruction_id_list'"),
        ({"instruction_id_list": []}, "needs option 'kwargs'"),
        ({"instruction_id_list": "punctuation:no_comma", "kwargs": [{}]}, "must be a list"),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": {}}, "must be a list"),
        ({"instruction_id_list": [], "kwargs": [], "mode": "lose"}, "did you mean 'loose'"),
        ({"instruction_id_list": [], "kwargs": [], "modes": "loose"}, "did you mean 'mode'"),
    ],
)
def test_callers_mistakes(given_options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        check_options("instruction", given_options)


def test_a_language_nobody_can_tell() -> None:
    unknown = options("language:response_language", {"language": "yo"})
    verdict = verify_answer("instruction", "", None, ENGLISH, unknown)
    assert (
        verdict.outcome is Outcome.UNVERIFIABLE and "'yo'" in verdict.explanation and verdict.reward is None
    )
    short = options("language:response_language", {"language": "de"})
    assert verify_answer("instruction", "", None, "Lima", short).outcome is Outcome.UNVERIFIABLE
    mixed = {**unknown, "instruction_id_list": ["language:response_language", "punctuation:no_comma"]}
    mixed["kwargs"] = [{"language": "yo"}, {}]
    assert (
        verify_answer("instruction", "", None, "a, b", mixed).outcome is Outcome.INCORRECT
    )  # that is certain


LANGUAGE_TEXTS = {
    "ar": "هذا هو الكتاب الذي كان على الطاولة في البيت، ولا أعرف من أين جاء.",
    "bg": "Това е книгата, която беше на масата, и не знам от къде е дошла, но ще питам.",
    "bn": "আমি বাংলায় গান গাই।",
    "en": ENGLISH,
    "es": "El libro que está en la mesa es de mi hermano, pero no sé dónde lo compró.",
    "fa": "این کتاب را برای شما خریده است و می خواهم که آن را در خانه خود نگه دارید.",
    "fi": "Tämä on kirja, joka oli pöydällä, ja minä en tiedä mistä se on tullut, mutta se on hyvin vanha.",
    "fr": "Le livre qui est sur la table est à mon frère, mais je ne sais pas où il est.",
    "gu": "હું ગુજરાતી બોલું છું.",
    "he": "הספר נמצא על השולחן",
    "hi": "यह किताब मेज पर है और मैं इसे पढ़ता हूँ, लेकिन यह बहुत पुरानी है।",
    "it": "Il libro che è sulla tavola è di mio fratello, ma non so dove lo ha comprato.",
    "ja": "本は机の上にあります。",
    "kn": "ನಾನು ಕನ್ನಡ ಮಾತನಾಡುತ್ತೇನೆ.",
    "ko": "책이 책상 위에 있습니다.",
    "ml": "ഞാൻ മലയാളം സംസാരിക്കുന്നു.",
    "mr": "हे पुस्तक टेबलावर आहे आणि मला ते खूप आवडते, पण ते माझ्या भावाचे आहे.",
    "ne": "यो किताब टेबुल मा छ र मेरो हो, तर यो धेरै पुरानो छ भने तपाईं हेर्नुहोस्।",
    "pa": "ਮੈਂ ਪੰਜਾਬੀ ਬੋਲਦਾ ਹਾਂ।",
    "pl": "To jest książka, która była na stole, i nie wiem, jak się tu znalazła, ale jest od mojego brata.",
    "pt": "O livro que está na mesa é do meu irmão, mas não sei onde ele o comprou.",
    "ru": "Это книга, которая была на столе, и я не знаю, как она здесь оказалась, но мы это узнаем.",
    "sw": "Hiki ni kitabu cha ndugu yangu na kilikuwa katika nyumba yake kwa sababu ya watu wa hapa.",
    "ta": "நான் தமிழ் பேசுகிறேன்.",
    "te": "నేను తెలుగు మాట్లాడతాను.",
    "th": "หนังสืออยู่บนโต๊ะ",
    "uk": "Це книга, яка була на столі, і я не знаю, як вона тут опинилася, але ми це з'ясуємо.",
    "ur": "یہ کتاب میز پر ہے اور میں اسے پڑھتا ہوں لیکن یہ بہت پرانی ہے۔",
    "vi": "Đây là cuốn sách của anh trai tôi và nó đã ở trên bàn trong một thời gian rất dài.",
    "zh": "书在桌子上。",
}


@pytest.mark.parametrize("language", sorted(LANGUAGE_TEXTS))
def test_each_text_is_in_its_language_and_in_no_other(language: str) -> None:
    assert set(LANGUAGE_TEXTS) <= set(LANGUAGES)
    said = {other: is_written_in(LANGUAGE_TEXTS[language], other).yes for other in LANGUAGE_TEXTS}
    assert said == {other: other == language for other in LANGUAGE_TEXTS}


def test_a_long_text_is_read_over_all_its_length() -> None:
    french, english = LANGUAGE_TEXTS["fr"] + "\n", ENGLISH + "\n"
    assert is_written_in(french * 2_000 + english * 20_000, "en").yes
    assert is_written_in(french * 20_000 + english * 2_000, "en").yes is False


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", 0), ("...", 0), ("One", 1), ("One.", 1), ("One... two.", 1), ("One... Two.", 2), ("Really?! Yes.", 2),
        ("Mr. and Mrs. Smith met J. K. Rowling at 5 p.m. on Jan. 3.", 1), ("It is in the U.S. The end.", 2),
        ('"What?" she said. "No."', 2), ("1. One.\n2. Two.", 2), ("Step a.\n\nStep b.", 2), ("So do I. You too.", 2),
        ("See www.example.com/a.b for v1.2.", 1), ("यह एक है। यह दो है।", 2), ("一。二！三？", 3), ("hello! how? fine.", 3),
        ("- apples\n- pears", 1), ("I said no. Then he left.", 2), ("No. 5 is alive.", 1), ("(See etc.) Then.", 2),
    ],
)  # fmt: skip
def test_sentences(text: str, sentences: int) -> None:
    assert count_sentences(text) == sentences


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("a b_c 3.5", 4),
        ("it's", 2),
        ("हिन्दी में", 2),
        ("書在桌子上", 3),
        ("我love你", 3),
        ("می‌خواهم", 1),
    ],
)
def test_words(text: str, words: int) -> None:
    assert count_words(text) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [("I'M", 2), ("I'm", 1), ("DON'T", 2), ("TCP/IP C++", 2), ("A.I.", 1), ("a 1 %", 0), ("(OK), $5K!", 2)],
)
def test_capital_words(text: str, words: int) -> None:
    assert count_capital_words(text) == words


def every_instruction() -> dict[str, Any]:
    rows = [(name, kwargs) for name, kwargs, _, _ in TABLE]
    return {"instruction_id_list": [name for name, _ in rows], "kwargs": [kwargs for _, kwargs in rows]}


HOSTILE = {
    "brackets": "[" * 60_000, "stars": "*" * 60_000, "angles": "<<" * 30_000, "dots": "." * 59_999 + "a",
    "dotted": ". " * 30_000, "quotes": "." + '"' * 60_000 + "x", "newlines": "\n" * 60_000 + "x",
    "spaces": "x" + " " * 60_000 + "x", "stars apart": "* " * 30_000, "sections": "SECTION" * 30_000,
    "digits": "1" * 60_000, "word": "a" * 60_000, "apostrophes": "a'" * 30_000, "at": "@" * 60_000,
    "braces": '{"a":' * 12_000, "paragraphs": "***" * 60_000, "NUL": "\0" * 60_000, "surrogates": "\ud800" * 60_000,
    "marks": "e" + "\u0301" * 60_000, "ps": "p. " * 15_000, "numerals": "\n1." * 15_000, "bare stars": "\n*" * 25_000,
    "rtl": "\u202e" + "אבג " * 50_000, "mixed": "a я 書 क " * 25_000, "tabs": "\n" + "\t" * 60_000 + "-x",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_texts_take_linear_time(name: str) -> None:
    """Quadratic time would be minutes at this length."""
    start = time.process_time()
    verdict = verify_answer("instruction", "", None, HOSTILE[name], {**every_instruction(), "mode": "loose"})
    assert verdict.outcome is Outcome.INCORRECT
    assert time.process_time() - start < 60


@given(st.text(st.characters() | st.sampled_from(list("*.\n[]<>\"',")), max_size=200))
def test_any_text_gets_a_grade_and_loose_is_never_stricter(text: str) -> None:
    verdict = verify_answer("instruction", "", None, text, every_instruction())
    assert verdict.outcome in (Outcome.INCORRECT, Outcome.UNVERIFIABLE)
    assert verdict.detail is not None
    for strict, loose in zip(verdict.detail["strict"], verdict.detail["loose"], strict=True):
        assert loose or not strict


def test_long_answers_are_left_to_a_worker() -> None:
    asked = options("punctuation:no_comma", {})
    assert instruction.quick("", None, "short", asked) == instruction.grade("", None, "short", asked)
    assert instruction.quick("", None, "x" * 30_000, asked) is None
    with WorkerPool(n=1, time_limit_s=30) as pool:
        (verdict,) = pool.verify([GradeTask("instruction", "", None, "word " * 50_000, asked)])
    assert verdict.is_correct


def ifeval() -> list[dict[str, Any]]:
    path = DATA / "ifeval" / "ifeval_input_data.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there; set R1_SHARED_DATA")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_row_of_ifeval_can_be_graded() -> None:
    names: set[str] = set()
    for row in ifeval():
        given_options = {key: row[key] for key in ("instruction_id_list", "kwargs")}
        names |= set(row["instruction_id_list"])
        verdict = verify_answer("instruction", row["prompt"], None, row["prompt"], given_options)
        assert verdict.fault is None, (row["key"], verdict.explanation)
        assert verdict.outcome is not Outcome.UNVERIFIABLE, (row["key"], verdict.explanation)
    assert names == set(INSTRUCTIONS)


def test_rows_with_a_column_for_every_argument() -> None:
    rows = ifeval()
    columns = {key for row in rows for kwargs in row["kwargs"] for key in kwargs}
    for row in random.Random(0).sample(rows, 60):
        wide = [dict.fromkeys(columns) | kwargs for kwargs in row["kwargs"]]
        given_options = {"instruction_id_list": row["instruction_id_list"], "kwargs": row["kwargs"]}
        narrow = verify_answer("instruction", "", None, row["prompt"], given_options)
        assert (
            verify_answer("instruction", "", None, row["prompt"], {**given_options, "kwargs": wide}).detail
            == narrow.detail
        )


def test_translations_are_told() -> None:
    """The first page of the Universal Declaration of Human Rights in the languages that IFEval asks for."""
    path = DATA / "udhr" / "udhr_paragraphs.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not there; set R1_SHARED_DATA")
    texts: dict[tuple[str, str], str] = {}
    for row in pq.read_table(path).sort_by("para").to_pylist():
        key = (row["code"], row["bcp47"].split("-")[0])
        if key[1] in LANGUAGE_TEXTS and len(texts.get(key, "")) < 800 and "(" not in row["name"]:
            texts[key] = texts.get(key, "") + f"{row['text']}\n"
    assert len({language for _, language in texts}) >= 25
    for (code, language), text in texts.items():
        said = {other: is_written_in(text, other).yes for other in LANGUAGE_TEXTS}
        assert said == {other: other == language for other in LANGUAGE_TEXTS}, code
