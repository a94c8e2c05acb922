from bench.report.words import gains, said

EMPTY = dict.fromkeys(
    ("metric", "pair", "label", "reference", "n", "value", "low", "high", "p", "p_adjusted", "note"), ""
)


def row(statistic: str, **values: str) -> dict[str, str]:
    return {"statistic": statistic, **EMPTY, "metric": "top1", "pair": "all pairs", **values}


def gain(label: str, value: str, p: str, pair: str = "a->b", **more: str) -> dict[str, str]:
    return row("gain", label=label, reference="KD", pair=pair, n="5", value=value, p=p, p_adjusted=p, **more)


def test_gains_are_told_apart_by_their_corrected_p():
    rows = [
        gain("SP", "-0.5", "0.01"),
        gain("AT", "0.2", "0.4"),
        gain("CRD", "1.25", "0.0001", low="1", high="1.5"),
        gain("FT", "3", ""),
    ]
    (told,) = said(rows)
    assert told.title == "Against KD in top1, a → b"
    assert told.sentences == [
        "1 of 4 is above KD by more than chance: CRD (+1.25; +1.00 to +1.50).",
        "1 of 4 is below KD by more than chance: SP (-0.50).",
        "1 of 4 is not told apart from KD: AT (+0.20).",
        "Too few samples for a test of FT.",
    ]
    assert not told.is_of_one_pair
    assert [one.p_adjusted for one in gains(rows)][2:] == [("< 0.001", "0.0001"), ("—", "")]


def test_what_holds_over_all_pairs_is_told_apart_from_what_holds_in_one():
    told = said([gain("AT", "1", "0.01"), gain("AT", "1", "0.01", pair="all pairs")])
    assert [one.is_of_one_pair for one in told] == [True, False]


def test_ranks_shares_improvements_and_images_are_told():
    told = said(
        [
            row("probability_of_improvement", label="AT", reference="KD", n="7", value="0.9"),
            row("friedman", n="7", value="30", p="0.002"),
            row("critical_difference", n="7", value="2.5"),
            row("mean_rank", label="AT", n="7", value="1.5"),
            row("relative_improvement", label="CRD", reference="AT", n="7", value="0.568"),
            row("mcnemar", pair="a->b", label="AT", reference="KD", n="1", value="1", p="0.01", p_adjusted="0.01"),
        ]
    )
    sentences = " ".join(sentence for one in told for sentence in one.sentences)
    for words in (
        "ranks differ (Friedman's test, p 0.002)",
        "AT 1.50",
        "2.50 apart",
        "AT 90 %",
        "AT 57 %",
        "1 of 1 is",
    ):
        assert words in sentences


def test_why_there_are_no_ranks_is_told():
    (told,) = said([row("friedman", note="Ranks need two pairs.")])
    assert told.sentences == ["Ranks need two pairs."]
