"""Signals: measures of language, readability and repetition."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.records import SIGNALS
from filters import signals
from filters.language import analyse, language_consistency
from filters.readability import COMFORTABLE_PARAGRAPH, readability
from filters.repetition import repetition

ENGLISH = "First we add the two numbers, and then we check that the sum is right."
CHINESE = "我们先把两个数相加，然后检查答案。"
GERMAN = "Zuerst addieren wir die beiden Zahlen und dann prüfen wir das Ergebnis."
SPANISH = "Primero sumamos los dos números y después comprobamos que la respuesta es correcta."
PROSE = {
    "en": ENGLISH,
    "zh": CHINESE,
    "de": GERMAN,
    "es": SPANISH,
    "fr": "D'abord nous ajoutons les deux nombres, puis nous vérifions que la somme est juste.",
    "it": "Prima sommiamo i due numeri e poi verifichiamo che la risposta sia giusta.",
    "pt": "Primeiro somamos os dois números e depois verificamos que a resposta está certa.",
    "nl": "Eerst tellen we de twee getallen op en dan controleren we of het antwoord juist is.",
    "ja": "まず二つの数を足して、次に答えを確かめます。",
    "ko": "먼저 두 수를 더하고 답을 확인합니다.",
    "ru": "Сначала сложим два числа, затем проверим ответ.",
    "uk": "Спочатку додамо два числа, потім перевіримо відповідь її.",
    "ar": "نجمع العددين أولا ثم نتحقق من الجواب",
    "he": "קודם נחבר את שני המספרים ואז נבדוק",
    "hi": "पहले हम दो संख्याओं को जोड़ते हैं",
    "el": "Πρώτα προσθέτουμε τους δύο αριθμούς",
    "th": "ก่อนอื่นเราบวกตัวเลขสองตัว",
}


@pytest.mark.parametrize("language", PROSE)
def test_prose_is_consistent_in_its_own_language(language: str) -> None:
    report = analyse(PROSE[language], language)
    assert (report.language, report.consistency, report.foreign) == (language, 1.0, ())
    assert analyse(PROSE[language]).language == language
    other = "zh" if language != "zh" else "en"
    assert language_consistency(PROSE[language], other) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3 + 4 = 7",
        "x = y",
        "`for the value`",
        "```python\nreturn the_value\n```",
        "$the sum$",
        "\\frac{1}{2}",
        "GCD",
        "f(x)",
    ],
)
def test_numbers_maths_and_code_are_no_words(text: str) -> None:
    assert language_consistency(text, "en") is None
    assert language_consistency(f"{text} we add the sum {text}", "en") == 1.0


def test_consistency_is_a_share_of_words() -> None:
    report = analyse("We add the numbers 然后检查 again", "en")
    assert report.words == 5 + 2  # four Han characters are two words
    assert report.consistency == pytest.approx(5 / 7)


@pytest.mark.parametrize("foreign", [CHINESE, GERMAN, SPANISH])
def test_foreign_stretches_are_found_where_they_are(foreign: str) -> None:
    text = f"{ENGLISH} {foreign} {ENGLISH}"
    report = analyse(text, "en")
    begin = len(ENGLISH) + 1
    covered = sum(span.end - span.start for span in report.foreign)
    assert all(begin - 12 <= span.start and span.end <= begin + len(foreign) + 12 for span in report.foreign)
    assert covered >= 0.8 * len(foreign.replace("，", "").replace("。", "")) - 4
    assert report.consistency is not None and 0.5 < report.consistency < 0.85


def test_unknown_language_is_refused() -> None:
    with pytest.raises(ValueError, match="no language 'english'"):
        language_consistency("hello", "english")


def test_loops_are_found_also_in_short_texts() -> None:
    assert repetition(ENGLISH + " Let me check: 12 / 4 = 3 and 3 * 4 = 12.").score < 0.15
    looping = repetition("We add. " + "so it is 7, " * 4)
    assert looping.loop_share > 0.8 and looping.loop_period == 5
    assert repetition("wait " * 12).score == 1.0
    assert repetition(ENGLISH + " I think so. I think so. I think so. I thi").loop_period == 4
    assert repetition(CHINESE * 3).score == 1.0
    assert repetition("one two one two").loop_period == 0  # twice is no loop
    assert repetition("").score == 0.0


def test_repetition_does_not_grow_with_the_length_of_good_prose() -> None:
    lines = [f"Step {i}: the value of item {i * 7 % 31} gives {i * i} in row {i}." for i in range(900)]
    short, long = repetition(" ".join(lines[:40])), repetition(" ".join(lines))
    assert abs(short.score - long.score) < 0.2
    assert (
        repetition(" ".join(lines) + " again and again" * 100).score > 0.9
    )  # a loop at the end of a long text


def test_the_20_gram_count() -> None:
    unit = " ".join(f"w{i}" for i in range(20))
    text = " . ".join(f"{unit} x{i} y{i}" for i in range(25))
    assert repetition(text).max_ngram_repeats == 25
    assert repetition("a b c").max_ngram_repeats == 0


def test_readability() -> None:
    assert readability("short\n\nlines").score == 1.0
    long = readability("x" * (4 * COMFORTABLE_PARAGRAPH))
    assert long.score == pytest.approx(0.25) and long.longest_paragraph_chars == 4 * COMFORTABLE_PARAGRAPH
    code = readability("text\n```\nsome code\n```\ntext")
    assert code.code_share == pytest.approx(14 / 22) and code.score == pytest.approx(8 / 22)
    assert readability("text\n```\nnever closed " + "x" * 5000).longest_paragraph_chars == 4
    assert readability("\ufffd" * 50 + "a" * 50).score == pytest.approx(0.5)
    assert readability(" \n").score is None


def test_signals_are_of_the_reasoning_and_count_in_the_completion() -> None:
    text = f"<think>\n{ENGLISH} {CHINESE}\n</think>\n{GERMAN}"
    found = signals(text, target_language="en")
    assert found.well_formed and found.language == "en" and found.coherence is None
    [zh] = [(text[s.start], text[s.end - 1]) for s in found.foreign_spans if s.end > text.rindex("答案")]
    assert zh == ("我", "案")
    assert signals(GERMAN, target_language="de").language_consistency == 1.0  # without tags: the whole text
    assert signals("<think>\n</think>\n7").language_consistency is None
    assert signals(f"{CHINESE}</think>{ENGLISH}", opened=True).language == "zh"


def test_signals_fill_their_table() -> None:
    row = signals(f"<think>{ENGLISH} {CHINESE}</think>7", target_language="en").to_dict()
    missing = set(SIGNALS.schema.names) - row.keys()
    assert missing == {"candidate_id", "reasoning_tokens", "answer_tokens"}
    table = SIGNALS.rows_to_arrow([{"candidate_id": "c", **row}])
    assert table.to_pylist()[0]["foreign_spans"][0]["language"] == "zh"


@given(st.text(max_size=300))
def test_any_text_can_be_measured(text: str) -> None:
    found = signals(text, target_language="en")
    for value in (found.language_consistency, found.readability, found.repetition, found.code_share):
        assert value is None or 0.0 <= value <= 1.0
    for span in found.foreign_spans:
        assert 0 <= span.start < span.end <= len(text)


UNITS = ["word ", "a ", "x", "一", "一 a ", "$", "`", "```\n", "\\(", "\\[", "<think>", "<think></think>", "1a", "a.b(",
         "http://", "\n", "a'", "\x00", "\ud800", "the und ", "aaaa aaab ", "w(", "- ", "\\"]  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("unit", UNITS)
def test_no_input_hangs(unit: str) -> None:
    """100,000 characters take about half a second; with a quadratic part, minutes."""
    text = (unit * 100_000)[:100_000]
    found = signals(text, style="r1-zero", target_language="en")
    assert found.repetition > 0.9 or not unit.strip()
