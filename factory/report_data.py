"""What the report says, as queries: every aggregate is made by DuckDB, so a run of millions fits.

`facts` is the one table made first: a row a candidate, without any text. Where a selection ran, it holds the
candidates that were decided on (a run may also keep those of earlier settings); else all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from factory.query import rows

if TYPE_CHECKING:
    import duckdb

MAX_DOMAINS = 40
MAX_CURVE_POINTS = 300
LENGTH_BINS = 48

# A candidate is graded where the outcome says something about it: failures of the gold answer or of the
# grader are no wrong answers (docs/architecture.md, "Outcomes").
_FACTS = """
create temp table facts as
with newest_signals as (
    select * from signals
    qualify row_number() over (partition by candidate_id order by signal_version desc) = 1
)
select c.candidate_id, c.prompt_id, c.generation_id, c.finish_reason, c.completion_tokens,
       coalesce(p.domain, p.source, 'unnamed') as domain, v.outcome, v.fault,
       v.outcome is not null as judged,
       coalesce(v.outcome = 'correct', false) as correct,
       v.outcome is not null and v.outcome <> 'unverifiable'
           and coalesce(v.fault, '') not in ('gold', 'system') as graded,
       s.candidate_id is not null as measured, s.well_formed, s.language, s.language_consistency,
       s.reasoning_tokens
from candidates c
left join prompts p on p.prompt_id = c.prompt_id
left join verdict v on v.candidate_id = c.candidate_id
left join newest_signals s on s.candidate_id = c.candidate_id
where not exists (from decisions)
   or exists (from decisions d where d.candidate_id = c.candidate_id)
"""

_RATES = """
create temp table rates as
select prompt_id, generation_id, any_value(domain) as domain, count(*) as samples,
       count(*) filter (graded) as graded, count(*) filter (graded and correct) as right_ones
from facts group by prompt_id, generation_id
"""


def prepare(connection: duckdb.DuckDBPyConnection) -> None:
    """Make `facts` (a row a candidate) and `rates` (a row a prompt); the other functions read them."""
    connection.execute(_FACTS)
    connection.execute(_RATES)


def one(connection: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[Any] = ()) -> dict[str, Any]:
    """The only row of a query."""
    return rows(connection, sql, parameters)[0]


# ------------------------------------------------------------------------------------------- overview


def totals(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Counts from prompts to correct candidates."""
    counts = one(
        connection,
        """
        select count(*) as candidates, count(distinct prompt_id) as asked,
               count(distinct generation_id) as generations,
               count(*) filter (judged) as judged, count(*) filter (graded) as graded,
               count(*) filter (correct) as correct, coalesce(sum(completion_tokens), 0)::bigint as tokens
        from facts
        """,
    )
    counts["prompts"] = one(connection, "select count(*) as n from prompts")["n"]
    counts["stored"] = one(connection, "select count(*) as n from candidates")["n"]
    counts["splits"] = rows(
        connection,
        "select split, count(*) as prompts from prompts group by split order by prompts desc, split",
    )
    counts["failures"] = rows(
        connection,
        "select error_class, count(*) as attempts, count(distinct candidate_id) as candidates from attempts "
        "group by error_class order by attempts desc, error_class",
    )
    return counts


def teachers(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """Who answered: model, engine and template of the candidates."""
    return rows(
        connection,
        """
        select c.model, c.engine, c.template, count(*) as candidates
        from candidates c semi join facts f on f.candidate_id = c.candidate_id
        group by all order by candidates desc, c.model
        """,
    )


# ---------------------------------------------------------------------------------------------- mixes


def mixes(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """One row a mix: what was decided, and what stands in `RUN/mix/NAME`."""
    return rows(
        connection,
        """
        with decided as (
            select d.mix, count(*) as decided, count(*) filter (d.accepted) as accepted,
                   count(*) filter (d.accepted and f.correct) as accepted_correct,
                   count(distinct d.prompt_id) filter (d.accepted) as prompts
            from decisions d left join facts f using (candidate_id) group by d.mix
        ), mixed as (
            select mix, count(*) as samples, count(*) filter (component = 'reasoning') as reasoning,
                   count(*) filter (component = 'general') as general,
                   count(*) filter (split = 'train') as train,
                   count(*) filter (split = 'validation') as validation
            from mix group by mix
        )
        select coalesce(decided.mix, mixed.mix) as mix, decided, accepted, accepted_correct, prompts, samples,
               reasoning, general, train, validation
        from decided full join mixed on decided.mix = mixed.mix
        order by mix
        """,
    )


def reasons(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """For every mix and Reason: how many candidates have it, and how many have no other."""
    return rows(
        connection,
        """
        select mix, reason, count(*) as has, count(*) filter (n = 1) as only_this
        from (select mix, unnest(reasons) as reason, len(reasons) as n from decisions where not accepted)
        group by mix, reason order by mix, has desc, reason
        """,
    )


# --------------------------------------------------------------------------------------- distributions


@dataclass(frozen=True)
class RateBin:
    """Prompts whose pass rate lies in a bin."""

    label: str
    meaning: str
    prompts: int


def pass_rates(connection: duckdb.DuckDBPyConnection) -> list[RateBin]:
    """Distribution of correct / graded samples over prompts.

    Up to 32 samples a prompt the bins are 0, 1, … of the usual number; a prompt with fewer graded samples
    stands at the nearest, but never at none or all unless it is so. Above that: 0, ten parts of (0, 1), 1.
    """
    most = one(connection, "select max(graded) as n from rates")["n"]
    if not most:
        return []
    if most <= 32:
        found = _counts(
            connection,
            "case when right_ones = 0 then 0 when right_ones = graded then most "
            "else greatest(1, least(most - 1, round(most * right_ones / graded)))::int end",
        )
        return [RateBin(str(i), f"{i} of {most} correct", found.get(i, 0)) for i in range(most + 1)]
    found = _counts(
        connection,
        "case when right_ones = 0 then 0 when right_ones = graded then 11 "
        "else greatest(1, ceil(10.0 * right_ones / graded))::int end",
    )
    names = ["0", *(f"–{10 * i}" for i in range(1, 11)), "100"]
    meanings = [
        "none correct",
        *(f"above {10 * i - 10} and up to {10 * i} per cent correct" for i in range(1, 11)),
        "all correct",
    ]
    return [RateBin(names[i], meanings[i], found.get(i, 0)) for i in range(12)]


def _counts(connection: duckdb.DuckDBPyConnection, expression: str) -> dict[int, int]:
    found = rows(
        connection,
        f"select {expression} as bin, count(*) as n from rates, (select max(graded) as most from rates) "
        f"where graded > 0 group by bin",
    )
    return {int(row["bin"]): row["n"] for row in found}


_DOMAIN_COLUMNS = """
count(*) as prompts, sum(samples)::bigint as samples, avg(right_ones / graded) filter (graded > 0) as pass_rate,
avg((right_ones = 0)::int) filter (graded > 0) as all_wrong,
avg((right_ones = graded)::int) filter (graded > 0) as all_right
"""


def domains(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """One row a domain, the largest first: how hard its prompts are for the teacher."""
    return rows(
        connection,
        f"select domain, {_DOMAIN_COLUMNS} from rates group by domain order by prompts desc, domain",
    )


def teacher_rate(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """The same columns over all prompts."""
    return one(connection, f"select {_DOMAIN_COLUMNS} from rates")


def ways(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """The same columns, one row a way of sampling: which teacher, under which template."""
    return rows(
        connection,
        f"""
        with named as (
            select generation_id, any_value(model) as model, any_value(template) as template
            from candidates group by generation_id
        )
        select generation_id, any_value(model) as model, any_value(template) as template, {_DOMAIN_COLUMNS}
        from rates join named using (generation_id) group by generation_id order by prompts desc, generation_id
        """,
    )


@dataclass(frozen=True)
class Lengths:
    """Completion lengths in tokens: bins for correct and other candidates, and quantiles by group."""

    edges: list[float]
    correct: list[int]
    other: list[int]
    groups: list[dict[str, Any]]


_LENGTH_COLUMNS = """
count(completion_tokens) as n, avg(completion_tokens) as mean, max(completion_tokens) as longest,
quantile_cont(completion_tokens, [0.1, 0.5, 0.9, 0.99]) as quantiles,
avg((finish_reason = 'length' or outcome = 'truncated')::int) as truncated
"""


def lengths(connection: duckdb.DuckDBPyConnection) -> Lengths | None:
    """Length histograms and quantiles; None where no length is known."""
    longest = one(connection, "select max(completion_tokens) as n from facts")["n"]
    if longest is None:
        return None
    width = bin_width(longest + 1, LENGTH_BINS)
    number = longest // width + 1
    found = rows(
        connection,
        "select completion_tokens // ? as bin, count(*) filter (correct) as correct, "
        "count(*) filter (not correct) as other from facts where completion_tokens is not null group by bin",
        [width],
    )
    counts = {int(row["bin"]): row for row in found}
    groups = rows(
        connection,
        f"select case when not judged then 'not judged' when correct then 'correct' else 'not correct' end "
        f"as name, {_LENGTH_COLUMNS} from facts group by name order by name",
    )
    if len(groups) > 1:
        groups.append(one(connection, f"select 'all' as name, {_LENGTH_COLUMNS} from facts"))
    return Lengths(
        edges=[float(width * i) for i in range(number + 1)],
        correct=[counts[i]["correct"] if i in counts else 0 for i in range(number)],
        other=[counts[i]["other"] if i in counts else 0 for i in range(number)],
        groups=groups,
    )


def bin_width(span: int, wanted: int) -> int:
    """The smallest of 1, 2, 4, 5, 8 times a power of ten that gives at most `wanted` bins over `span`."""
    power = 1
    while True:
        for factor in (1, 2, 4, 5, 8):
            if math.ceil(span / (factor * power)) <= wanted:
                return factor * power
        power *= 10


def outcomes(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """Candidates by outcome and fault; those not judged yet are a row of their own."""
    return rows(
        connection,
        """
        select coalesce(outcome, 'not judged yet') as outcome, fault, count(*) as n,
               count(*) / sum(count(*)) over () as share
        from facts group by all order by n desc, outcome, fault
        """,
    )


def languages(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """Candidates by language of the reasoning: consistency, form, and how many are correct."""
    return rows(
        connection,
        """
        select coalesce(language, 'undetermined') as language, count(*) as n,
               count(*) / sum(count(*)) over () as share, avg(language_consistency) as consistency,
               avg((language_consistency = 1)::int) as pure, avg(well_formed::int) as well_formed,
               count(*) filter (graded and correct) / nullif(count(*) filter (graded), 0) as correct
        from facts where measured group by all order by n desc, language limit 12
        """,
    )


def consistency_bins(connection: duckdb.DuckDBPyConnection) -> list[int]:
    """Candidates by language consistency: [0, 0.1), …, [0.9, 1), and exactly 1. Empty where none is known."""
    found = rows(
        connection,
        "select case when language_consistency >= 1 then 10 "
        "else greatest(0, floor(language_consistency * 10))::int end as bin, count(*) as n "
        "from facts where language_consistency is not null group by bin",
    )
    counts = {row["bin"]: row["n"] for row in found}
    return [counts.get(i, 0) for i in range(11)] if counts else []


# ------------------------------------------------------------------------------------------- training


def metric_summary(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """One row a (name, job): first and last step and value, and how many values are not finite."""
    return rows(
        connection,
        """
        select name, job, count(*) as points, min(step) as first_step, max(step) as last_step,
               arg_min(value, step) as first_value, arg_max(value, step) as last_value,
               count(*) filter (value is null or not isfinite(value)) as not_finite
        from metrics group by name, job order by name, job
        """,
    )


def curve(
    connection: duckdb.DuckDBPyConnection, name: str, job: str, points: int = MAX_CURVE_POINTS
) -> list[tuple[float, float]]:
    """(step, value) of a metric: the means of at most `points` runs of steps, finite values only."""
    found = rows(
        connection,
        """
        with points as (
            select step, value, ntile(?) over (order by step) as part
            from metrics where name = ? and job = ? and isfinite(value)
        )
        select avg(step) as step, avg(value) as value from points group by part order by part
        """,
        [points, name, job],
    )
    return [(row["step"], row["value"]) for row in found]


# --------------------------------------------------------------------------------------------- samples

_SAMPLES = """
with newest_signals as (
    select * from signals where candidate_id in (select unnest(?))
    qualify row_number() over (partition by candidate_id order by signal_version desc) = 1
)
select c.candidate_id, c.completion, c.template, c.finish_reason, c.completion_tokens, p.question, p.reference,
       p.verifier, coalesce(p.domain, p.source) as domain, v.outcome, v.fault, v.extracted_answer,
       v.explanation, s.language, s.language_consistency, d.reasons
from candidates c
left join prompts p on p.prompt_id = c.prompt_id
left join verdict v on v.candidate_id = c.candidate_id
left join newest_signals s on s.candidate_id = c.candidate_id
left join decisions d on d.candidate_id = c.candidate_id and d.mix = ?
where c.candidate_id in (select unnest(?))
"""


def accepted_ids(connection: duckdb.DuckDBPyConnection, mix: str, number: int) -> list[str]:
    """Accepted candidates, drawn by the hash of their id: the same ones on every machine."""
    found = rows(
        connection,
        "select candidate_id from decisions where mix = ? and accepted order by md5(candidate_id) limit ?",
        [mix, number],
    )
    return [row["candidate_id"] for row in found]


def rejected_ids(connection: duckdb.DuckDBPyConnection, mix: str, number: int) -> list[str]:
    """Rejected candidates, drawn by hash and in turn over the reasons, the rarest first."""
    found = rows(
        connection,
        f"""
        select reason, count(*) as n, arg_min(candidate_id, md5(candidate_id), {int(number)}) as ids
        from (select candidate_id, unnest(reasons) as reason from decisions where mix = ? and not accepted)
        group by reason order by n, reason
        """,
        [mix],
    )
    chosen: dict[str, None] = {}
    queues = [list(row["ids"]) for row in found]
    while any(queues) and len(chosen) < number:
        for queue in queues:
            while queue and queue[0] in chosen:
                queue.pop(0)
            if queue and len(chosen) < number:
                chosen[queue.pop(0)] = None
    return list(chosen)


def samples(connection: duckdb.DuckDBPyConnection, mix: str, ids: Sequence[str]) -> list[Mapping[str, Any]]:
    """The texts of a few candidates, in the order of `ids`."""
    wanted = list(ids)
    found = {row["candidate_id"]: row for row in rows(connection, _SAMPLES, [wanted, mix, wanted])}
    return [found[key] for key in wanted if key in found]
