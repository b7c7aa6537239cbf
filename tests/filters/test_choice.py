"""Which option does an answer choose?"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import Fault, Outcome, verify_answer
from filters.verifiers.choice import extract
from filters.verifiers.grade import Found
from tests.shared_data import DATA

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

CITIES = ["Paris", "London", "New York", "York"]
VALUES = ["1/2", "0.25", "3", "\\sqrt{2}"]
GENES = ["BB BB", "BB Bb", "Bb Bb", "Bb bb"]
ABOVE = ["red", "blue", "Both A and B", "None of the above"]
VITAMINS = ["vitamin A", "vitamin C", "vitamin D", "iron"]
YES_NO = ["Yes", "No"]
DECIMALS = [".5", "5", "50", "500"]
VALID = ["valid", "invalid"]

CHOSEN = [
    "It is not A, so B", "A) Paris B) London C) New York D) York. The answer is B.",
    "Options: (A) Paris (B) London (C) New York (D) York\n\n(B)", "B. London",
    "(B) London is right since Paris is in France", "B) London", "option B", "Option (B)", "**B**",
    "**Answer:** B", "**Answer: B**", "**Answer**: **(B)** London", "\\boxed{(B)}", "\\boxed{\\text{(B)}}",
    "\\boxed{\\textbf{B. London}}", "\\boxed{\\text{London}}", "$\\boxed{B}$.", "$$\\boxed{\\mathrm{B}}$$",
    "\\boxed{Option B}", "The correct answer is:\n\n**B**", "The correct answer is:\n\n(B) London",
    "Therefore, B is correct.", "Option B is the correct answer.", "A is wrong. B is correct. C is wrong.",
    "So B", "Hence, (B).", "If the answer is A, then it rains. The answer is B", "I'd choose B",
    "I would go with B.", "答案：B", "故选B。", "【答案】B", "正确答案是（B）", "应选择B", "Answer: B (not A)",
    "The answer is B, not A.", "The answer is B because A is wrong",
    "The answer is B. A is wrong and C is wrong", "The answer is London, not Paris",
    "It is London, not Paris", "It isn't Paris, it's London",
    "The answer is \\boxed{Rome}, so the answer is B", "The answer is B: \\boxed{Rome}", "My answer is b",
    "the answer is (b)", "the answer is b because", "(b) london",
    "Answer: B\n\nExplanation: Paris is the capital of France.", "B\n\nBecause it is.",
    "**B. London**\n\nParis is in France and New York in America.", "ANSWER: B", "Final answer: (B)",
    "Final Answer: The final answer is $\\boxed{B}$. I hope it is correct.", "The answer is likely B.",
    "The answer would be B", "The best answer is B.", "The correct choice is: **B) London**",
    "The answer is option B.", "the answer is choice (B)", "(B) is the answer", "Only B is correct", "Ｂ",
    "（Ｂ）", "The answer is **B**, since", "The answer is **B** London", "The answer is A. The answer is B.",
    "A: No.\nB: Yes.\nC: No.\nD: No.\n\nB",
    "**A) Paris** - incorrect\n**B) London** - correct\n\n**Answer: B**",
    "Let's analyze each option:\n\nA) Paris: no.\nB) London: yes.\n\nThe correct answer is **B) London**.",
    "Let's see. A is too far. B is near. C is not in England. So the correct option is B.",
    "Since A is false, and C is false, D is false, B must be correct.", "B must be the answer",
    "The answer must be B", "The answer has to be (B).", "I'm torn between A and B, but I'd go with B.",
    "London (B)", "The correct answer is B), London.", "The answer is B — London", "B - London",
    "B – London", "B: London", "B = London", "[B]", "{B}", "\"B\"", "'B'", "“B”", "`B`", "$B$",
    "\\[ \\boxed{B} \\]", "\\boxed{B.}", "\\boxed{B: London}", "\\boxed{\\mathbf{(B)}\\ \\text{London}}",
    "\\boxed{\\textbf{(B)}}", "\\boxed{\\textbf{(B) }London}",
    "The answer is: A. But wait, B is better. The answer is: B", "Answer:B", "Answer:(B)", "Choice B.",
    "The answer to this question is B.", "The correct answer is therefore option (B): London",
    "the correct answer would be **(B)**", "My final answer: $\\text{B}$", "The answer is $\\mathbf{B}$.",
    "the final answer is: $\\boxed{\\text{B}}$", "Answer is B", "answer is b)",
]  # fmt: skip
"""Every one of these says London, option B of CITIES."""

NOTHING = [
    "A or B", "A and C", "The answer is A or B", "The answer is A and C.", "(A), (B)", "\\boxed{A, B}",
    "\\boxed{AB}", "\\boxed{A} or \\boxed{B}", "A/B", "ABCD", "A B C D", "Answer: A\nB\nC",
    "The answer is (A) or (B), hard to say", "Answer: A, B", "A, B, C and D", "not B",
    "The answer is not B", "The answer isn't B", "The answer is B. Wait, the answer is not B.",
    "Anything but B", "A dog is here", "A list of cities follows", "The answer is a city in England",
    "The answer is A city in England", "The answer is: I think B", "I", "The answer is I", "E",
    "The answer is F", "Yorkshire", "The answer is Yorkshire", "A) Paris B) London C) New York D) York",
    "The answer: A) Paris B) London C) New York D) York", "B. Paris", "The answer is B. Paris",
    "None of the above", "All of the above", "B is not correct", "B is incorrect",
    "A is correct. B is correct.", "A and B are correct", "If the answer is A, it rains.",
    "Is the answer A?", "I thought the answer was A", "【答案】: B, C <eoa>", "所以，正确答案是B和C。", "P(A) = 0.3",
    "we compute P(A)", "It equals vitamin C", "Neither A nor B", "The answer is neither A nor B",
    "all except B", "London and Paris", "The answer is London or Paris", "\\boxed{Rome}", "\\boxed{}",
    "I don't know.", "", "   ", "A > B", "A vs. B", "either A or B", "The answer could be A or B",
    "maybe A, maybe B", "A; B", "A, maybe B", "The answer is A, or maybe B", "The answer is A (or B)",
    "Answer: A & D", "Answer: A+D", "\\boxed{\\text{A and B}}", "\\boxed{A\\text{ or }B}",
    "\\boxed{\\{A,B\\}}", "London is big, but Paris is the answer",
    "**A) Paris** - incorrect\n**B) London** - correct\n**C) New York** - incorrect",
    "the answer can't be A", "The answer can't be A, so it must be B", "Either A or B is correct",
    "The answer is (A) Paris or (B) London", "The answer is Paris (B)", "Paris (B)", "A? B?",
    "Not sure, A?", "No answer.", "The answer is unknown.", "The answer is in the text. A man ...",
    "The answer is as follows: A man walks", "Answer: As we know", "Answer: I think so",
    "The answer is At least B", "The answer is A's opposite", "The answer is A-type",
    "The answer is D-day", "Answer: C++", "The answer is B2", "The answer is B/C", "The answer is AB",
    "The answer is neither", "The answer is everything but A", "The answer is all except A",
    "What if the answer is B?", "Some may think the answer is A.",
]  # fmt: skip
"""None of these chooses one of CITIES."""

OTHERS: list[tuple[list[str], str | None, list[str]]] = [
    (CITIES, "C", [
        "The answer is not B but C", "New York", "The answer is New York",
        "Answer: (B) London\n\nAnswer: (C) New York", "The answer is not A or B but C",
    ]),
    (VITAMINS, "B", [
        "vitamin C", "It is vitamin C", "The answer is vitamin C", "The patient lacks vitamin C",
    ]),
    (VITAMINS, "C", [
        "Vitamin C is needed, so the answer is C",
    ]),
    (CITIES, "D", [
        "York", "A: Paris is wrong. The answer is D: York", "A and B are wrong, C is wrong. Therefore D.",
    ]),
    (VALUES, "A", [
        "\\boxed{\\frac{1}{2}}", "$\\frac12$", "0.5",
    ]),
    (VALUES, "B", [
        "\\boxed{\\frac{1}{4}}", "B) 0.25", "\\boxed{\\textbf{(B)}\\ \\frac{1}{4}}",
        "\\boxed{\\text{B) } 0.25}",
    ]),
    (VALUES, "D", [
        "√2", "$\\sqrt{2}$", "The answer is $\\sqrt 2$.",
    ]),
    (VALUES, "C", [
        "C) 3.0", "x = 3",
    ]),
    (VALUES, None, [
        "B) 3", "2", "\\boxed{\\textbf{(A)}\\ \\frac{1}{4}}",
    ]),
    (GENES, "C", [
        "Bb Bb",
    ]),
    (GENES, None, [
        "bb bb",
    ]),
    (GENES, "B", [
        "BB Bb", "The answer is BB Bb",
    ]),
    (DECIMALS, "A", [
        ".5", "0.5",
    ]),
    (DECIMALS, "B", [
        "5",
    ]),
    (ABOVE, "C", [
        "Both A and B", "A and B", "The answer is A and B", "both A and B", "The answer is both A and B.",
        "C. Both A and B", "C) A and B",
    ]),
    (ABOVE, "D", [
        "none of these", "None of the above is correct", "None", "D. None of the above",
    ]),
    (ABOVE, None, [
        "A or B", "all of the above",
    ]),
    (["x", "y", "z", "All of the above"], "D", [
        "A, B and C", "all of these",
    ]),
    (["x", "y", "z", "All of the above"], None, [
        "A, B, C, D",
    ]),
    (YES_NO, "A", [
        "Yes", "Yes, it is. No doubt",
    ]),
    (YES_NO, "B", [
        "No, because", "So the answer is No.",
    ]),
    (YES_NO, None, [
        "There is no doubt",
    ]),
    (VALID, "B", [
        "invalid", "The argument is invalid", "The answer is invalid.",
    ]),
    (VALID, None, [
        "not valid", "The answer is not valid",
    ]),
    (["C. elegans", "E. coli", "B. subtilis", "yeast"], "A", [
        "C. elegans",
    ]),
    (["C. elegans", "E. coli", "B. subtilis", "yeast"], "C", [
        "The answer is B. subtilis",
    ]),
    (["C. elegans", "E. coli", "B. subtilis", "yeast"], "B", [
        "The answer is E. coli",
    ]),
    (["worm", "E. coli", "fly", "yeast", "cat"], "B", [
        "The answer is E. coli",
    ]),
    (["worm", "bacteria", "fly", "yeast", "cat"], None, [
        "The answer is E. coli",
    ]),
    (CITIES, "A", [
        "The answer is A because (B) is wrong", "It's either A or B. I choose A.",
        "The answer is Paris (A)",
    ]),
    (["1 m", "1 km", "2 m", "3"], "A", [
        "1 m",
    ]),
    (["1 m", "1 km", "2 m", "3"], "B", [
        "1 km",
    ]),
    (["5 m", "6 m"], None, [
        "5 km",
    ]),
    (["5 m", "6 m"], "A", [
        "5 meters", "5",
    ]),
    (["10%", "20%", "0.1%"], "A", [
        "10%",
    ]),
    (["$61", "$65"], "B", [
        "$65", "65 dollars", "\\$65",
    ]),
    (["12", "17"], "B", [
        "12 + 5 = 17",
    ]),
    (["12", "15"], None, [
        "12 + 5 = 17",
    ]),
    (["True, True", "False, False", "True, False", "False, True"], "C", [
        "True, False", "The answer is True, False.", "(C) True, False",
    ]),
    (["True, True", "False, False", "True, False", "False, True"], None, [
        "True",
    ]),
    (["0", "1", "0,1", "0,4"], "C", [
        "0,1", "\\boxed{0,1}",
    ]),
    (["0", "1", "0,1", "0,4"], "A", [
        "0",
    ]),
    (["0", "1", "0,1", "0,4"], None, [
        "0 and 1",
    ]),
    (["I only", "II only", "I and II only", "I, II and III"], "C", [
        "I and II only", "I and II",
    ]),
    (["I only", "II only", "I and II only", "I, II and III"], "B", [
        "II",
    ]),
    (["I only", "II only", "I and II only", "I, II and III"], "D", [
        "The answer is I, II and III.",
    ]),
    (["I only", "II only", "I and II only", "I, II and III"], "A", [
        "I",
    ]),
    (["increase", "decrease", "no change", "increase then decrease"], "D", [
        "It would increase then decrease.",
    ]),
    (["increase", "decrease", "no change", "increase then decrease"], None, [
        "It will not increase.",
    ]),
    (["increase", "decrease", "no change", "x"], "C", [
        "The answer is no change.", "There would be no change.",
    ]),
    (["acid", "amino acid", "nucleic acid", "base"], "B", [
        "amino acid", "It is an amino acid.",
    ]),
    (["acid", "amino acid", "nucleic acid", "base"], "A", [
        "It is an acid.",
    ]),
    (["H", "C", "N", "O"], "B", [
        "The answer is (B)",
    ]),
    (["H", "C", "N", "O"], None, [
        "carbon",
    ]),
    (["cell wall", "cell", "cells", "organ"], "C", [
        "cells", "The cells.",
    ]),
]  # fmt: skip
"""(options, the letter that is chosen or None, answers)"""


def chosen(answer: str, choices: list[str]) -> str | None:
    found = extract(answer, {"choices": choices})
    return found.value if isinstance(found, Found) else None


@pytest.mark.parametrize("answer", CHOSEN)
def test_chosen(answer: str) -> None:
    for reference in ("B", "London"):
        assert verify_answer("choice", "", reference, answer, {"choices": CITIES}).is_correct
    verdict = verify_answer("choice", "", "C", answer, {"choices": CITIES})
    assert verdict.outcome is Outcome.INCORRECT


@pytest.mark.parametrize("answer", NOTHING)
def test_nothing_is_chosen(answer: str) -> None:
    for reference in "ABCD":
        verdict = verify_answer("choice", "", reference, answer, {"choices": CITIES})
        assert (verdict.outcome, verdict.fault) == (Outcome.UNPARSABLE, Fault.PREDICTION)


@pytest.mark.parametrize(
    ("choices", "letter", "answer"),
    [(choices, letter, a) for choices, letter, answers in OTHERS for a in answers],
)
def test_texts_values_and_combinations(choices: list[str], letter: str | None, answer: str) -> None:
    assert chosen(answer, choices) == letter


def test_several_letters_are_named_in_the_explanation() -> None:
    verdict = verify_answer("choice", "", "A", "The answer is A or C.", {"choices": CITIES})
    assert verdict.explanation == "A, C are named in 'A or C.', not one"


def test_conflicts_are_reported() -> None:
    verdict = verify_answer("choice", "", "B", "The answer is A. No, the answer is B.", {"choices": CITIES})
    assert verdict.is_correct and "earlier final answer was 'A'" in verdict.explanation


def test_options_with_the_same_text_are_one() -> None:
    assert verify_answer("choice", "", "D", "A", {"choices": ["1/2", "0.25", "3", "1/2"]}).is_correct
    assert not verify_answer("choice", "", "D", "A", {"choices": ["bb", "Bb", "BB", "bB"]}).is_correct


def test_a_small_letter_that_is_an_option() -> None:
    choices = ["error", "abc", "cba", "c"]
    assert (chosen("c", choices), chosen("C", choices), chosen("(c)", choices)) == ("D", "C", "C")


@pytest.mark.parametrize("reference", ["E", "Rome", "", None, "A or B", "A, B"])
def test_bad_reference(reference: str | None) -> None:
    assert verify_answer("choice", "", reference, "B", {"choices": CITIES}).fault is Fault.GOLD


@given(st.text(alphabet="ABCD abc().,:*\n\\\\{}$orandthesw é", max_size=60), st.permutations(CITIES))
def test_any_text_chooses_at_most_one(answer: str, choices: list[str]) -> None:
    verdicts = [verify_answer("choice", "", letter, answer, {"choices": choices}) for letter in "ABCD"]
    assert all(v.outcome is not Outcome.ERROR for v in verdicts)
    assert sum(v.is_correct for v in verdicts) in (0, 1)


HOSTILE = [
    "A " * 200_000, "(" * 100_000, "\\boxed{" * 50_000, "\\boxed{A}" * 20_000, "the answer is " * 50_000,
    "A, " * 100_000, "not " * 100_000, "\n" * 500_000, " " * 500_000, "(A) " * 100_000, "\ud800" * 1_000, "\x00" * 100_000,
    "answer is not " * 50_000, "the answer is " + "A or " * 50_000, "the answer is " + "*_ :" * 50_000, "\\frac{" * 5_000,
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_answers_and_options(text: str) -> None:
    """Two million characters or none: a verdict, and not an error."""
    options = [CITIES, [f"{text[:3000]}{place}" for place in range(26)]]
    for choices in options:
        verdict = verify_answer("choice", "", "A", text + "\nZ", {"choices": choices})
        assert verdict.outcome is not Outcome.ERROR


def rows(name: str) -> Iterator[dict[str, Any]]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there; set R1_SHARED_DATA")
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        yield from pq.read_table(path).to_pylist()
    else:
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)


def ways(letter: str, text: str) -> list[str]:
    """Ways of writing a choice."""
    return [
        letter, f"({letter})", f"\\boxed{{{letter}}}", f"$\\boxed{{\\text{{({letter})}}}}$", f"Because.\n\n**{letter}**",
        f"{letter}) {text}", f"The answer is ({letter}) {text}.", f"**Answer: {letter}. {text}**", f"Option {letter}",
    ]  # fmt: skip


def test_mmlu_golds_are_accepted_and_others_rejected() -> None:
    for row in list(rows("mmlu/val.jsonl"))[::4]:
        choices, gold = row["choices"], row["answer"]
        right = choices[LETTERS.index(gold)]
        for letter, text in zip(LETTERS, choices, strict=False):
            for answer in ways(letter, text):
                verdict = verify_answer("choice", "", gold, answer, {"choices": choices})
                assert verdict.is_correct == (text.strip() == right.strip()), (choices, gold, answer, verdict)


def test_mmlu_texts() -> None:
    """An option's text alone; where it is a capital letter that is also a label, the label is meant."""
    for row in rows("mmlu/val.jsonl"):
        choices, gold = row["choices"], row["answer"]
        right = choices[LETTERS.index(gold)]
        for text in choices:
            if not re.fullmatch(r"[A-D]", text.strip()):
                for answer in (text, f"The answer is {text}", f"\\boxed{{{text}}}"):
                    verdict = verify_answer("choice", "", gold, answer, {"choices": choices})
                    assert verdict.is_correct == (text.strip() == right.strip()), (
                        choices,
                        gold,
                        answer,
                        verdict,
                    )


YES_NO_TASKS = {
    "boolean_expressions": ["True", "False"], "sports_understanding": ["yes", "no"], "web_of_lies": ["Yes", "No"],
    "navigate": ["Yes", "No"], "causal_judgement": ["Yes", "No"], "formal_fallacies": ["valid", "invalid"],
}  # fmt: skip


def bbh() -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Rows of BIG-Bench Hard with options, and the options."""
    for row in rows("bbh/code_davinci_002_outputs.parquet"):
        listed = re.findall(r"^\([A-Z]\) (.*)$", row["question"].rsplit("Options:", 1)[-1], re.MULTILINE)
        choices = YES_NO_TASKS.get(row["task"], listed)
        if len(choices) > 1:
            yield row, choices


def test_bbh_outputs_are_graded_as_labelled() -> None:
    confusion: Counter[tuple[bool, bool]] = Counter()
    golds = 0
    for row, choices in bbh():
        verdict = verify_answer("choice", "", row["target"], row["output"], {"choices": choices})
        golds += verdict.fault is Fault.GOLD
        if row["derived_match"] is not None and verdict.fault is not Fault.GOLD:
            confusion[row["derived_match"], verdict.is_correct] += 1
    assert confusion == {(True, True): 5391, (False, False): 2775}
    assert golds == 5


def test_bbh_outputs_without_their_final_sentence() -> None:
    """What is read from the reasoning alone is what the model says there, or nothing.

    Of all outputs, 20 readings differ from the letter that the model went on to write: 19 are its own
    contradictions ("… Claire is playing left winger", and then another letter).
    """
    seen: Counter[str] = Counter()
    for row, choices in list(bbh())[::3]:
        text, cut = re.subn(r"\s*So the answer is .*$", "", row["output"], flags=re.DOTALL)
        if row["mode"] == "cot" and cut:
            said, final = chosen(text, choices), chosen(row["output"], choices)
            seen["nothing" if said is None else "same" if said == final else "other"] += 1
    assert seen["other"] <= 10 and seen["same"] >= 700


def test_gaokao_outputs_are_graded_as_labelled() -> None:
    """Chinese answers of GPT-4. The 11 that the published label calls right and we do not name several letters
    (8; the label takes the last one) or say that no option is right (3)."""
    confusion: Counter[tuple[bool, bool]] = Counter()
    for row in rows("gaokao_gpt4/gaokao_gpt4_outputs.parquet"):
        golds = json.loads(row["gold"]) if row["kind"] == "obj" else []
        if len(golds) != 1 or len(golds[0]) != 1:
            continue
        parts = re.split(r"(?<![A-Za-z])([ABCD])\s*[.．、]", row["question"])
        texts = [" ".join(part.split()) for part in parts[2::2]] if parts[1::2] == list("ABCD") else [""] * 4
        choices = [text or f"picture {place}" for place, text in enumerate(texts)]
        verdict = verify_answer("choice", "", golds[0], row["output"], {"choices": choices})
        confusion[row["derived_match"], verdict.is_correct] += 1
    assert confusion == {(True, True): 734, (True, False): 11, (False, False): 358}
