"""What the command line selects, and the prompts that come of it."""

from __future__ import annotations

import pytest
from comparison.scenarios import Intrusion, Load, Start, parse
from comparison.servers import Shape


def names(*texts: str, quick: bool = False) -> list[tuple[str, int]]:
    return [(scenario.scenario, scenario.case) for scenario in parse(texts, quick=quick)]


def test_names_and_numbers() -> None:
    assert names("decode") == [("decode", 1), ("decode", 16), ("decode", 32)]
    assert names("decode:4,16", "prefix") == [("decode", 4), ("decode", 16), ("prefix", 8)]
    assert names("growth") == names("context", "streams")
    assert names("all") == names(
        "decode", "prefix", "intrusion", "context", "streams", "start"
    )  # fmt: skip
    assert names("start", "decode:1", "decode:1") == [("decode", 1), ("start", 0)]
    assert names("context", quick=True) == [("context", 128), ("context", 1024)]


@pytest.mark.parametrize(
    "text", ["", "decod", "decode:", "decode:0", "decode:a", "decode:1,", "all:1", "context:8193"]
)
def test_what_is_no_scenario(text: str) -> None:
    with pytest.raises(ValueError, match="scenarios are|numbers|the model has"):
        parse([text], quick=False)


def test_full_loads_are_what_they_are_said_to_be() -> None:
    loads = {(s.scenario, s.case): s for s in parse(["all"], quick=False)}
    decode, prefix = loads["decode", 16], loads["prefix", 8]
    assert isinstance(decode, Load)
    assert isinstance(prefix, Load)
    assert (decode.streams, decode.input_len, decode.output_len) == (16, 128, 128)
    assert (prefix.prefix_len, prefix.input_len, prefix.output_len) == (1024, 32, 16)
    intrusion, start = loads["intrusion", 8], loads["start", 0]
    assert isinstance(intrusion, Intrusion)
    assert isinstance(start, Start)
    assert (intrusion.streams, intrusion.intruder_len) == (8, 4000)
    assert start.num_connections == 1000
    for case in (128, 1024, 4096, 8192):
        load = loads["context", case]
        assert isinstance(load, Load)
        assert load.input_len == case - 48 * (case == 8192)
        assert load.input_len + load.output_len < load.shape.tokens <= 8192
    assert loads["decode", 32].shape == Shape(32, 512)


def test_prompts_are_the_same_for_all_servers_and_new_in_each_round() -> None:
    (load,) = parse(["prefix:2"], quick=True)
    assert isinstance(load, Load)
    warmups, prompts = load.prompts(0)
    assert (warmups, prompts) == load.prompts(0)
    assert (len(warmups), len(prompts)) == (2, 2)
    contents = [tuple(prompt.content) for prompt in [*warmups, *prompts]]
    assert len({content[:1024] for content in contents}) == 1
    assert len(set(contents)) == 4
    assert {prompt.num_tokens for prompt in prompts} == {1056}
    assert load.prompts(1)[1][0].content[:1024] != prompts[0].content[:1024]
