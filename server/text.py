"""Generated text, piece by piece: tokens to characters, and where stop strings cut it.

Sans-IO and incremental; every call costs what its own input costs, however long the text is.
Knows nothing of tokenizers, requests or HTTP.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence


class StreamDecoder:
    """Turns token ids into text as they come; a character split over tokens comes out whole.

    `token_bytes[i]` is what id i adds to the text; ids past its end add nothing. All that `add` and
    `finish` return, joined, is the bytes of all ids decoded as UTF-8, errors replaced by U+FFFD.
    A vocabulary that marks word starts with a space puts one before the first word of a document;
    it is left out if the first id is `drops_space_after`, which is BOS.
    """

    def __init__(self, token_bytes: Sequence[bytes], drops_space_after: int | None = None) -> None:
        self._token_bytes = token_bytes
        self._drops_space_after = drops_space_after
        self._at_beginning = drops_space_after is not None
        self._drops_space = False
        self._incomplete = b""

    def add(self, token_ids: Sequence[int]) -> str:
        """The characters that `token_ids` complete; never half a character."""
        try:
            data = b"".join([self._token_bytes[token_id] for token_id in token_ids])
        except IndexError:  # models round the number of ids up; the vocabulary has no such tokens
            num_known = len(self._token_bytes)
            data = b"".join([self._token_bytes[i] for i in token_ids if i < num_known])
        name = b""  # of BOS, where special tokens have one in the text
        if self._at_beginning and token_ids:
            self._at_beginning = False
            if token_ids[0] == self._drops_space_after:
                self._drops_space = True
                name = b"".join(self._token_bytes[token_ids[0] : token_ids[0] + 1])
        if self._drops_space and len(data) > len(name):
            self._drops_space = False
            data = name + data[len(name) :].removeprefix(b" ")
        if self._incomplete:
            data = self._incomplete + data
        text, num_consumed = codecs.utf_8_decode(data, "replace", False)
        self._incomplete = data[num_consumed:]
        return text

    def finish(self) -> str:
        """What an incomplete last character leaves: U+FFFD, or nothing."""
        data, self._incomplete = self._incomplete, b""
        return data.decode("utf-8", "replace")


class StopAutomaton:
    """The matcher for a set of stop strings; built once, read by any number of `StopStrings`.

    Aho and Corasick's automaton (CACM 18(6), 1975): a node is a prefix of some stop string, node 0
    the empty one; `fallback` leads to the longest proper suffix that is a node too. Raises
    ValueError for an empty stop string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.children: list[dict[str, int]] = [{}]
        self.depth = [0]
        self.stop_length = [0]  # of the longest stop string that ends at the node, 0 if none does
        for stop in stops:
            self._insert(stop)
        self.fallback = [0] * len(self.children)
        self._link()

    def _insert(self, stop: str) -> None:
        if not stop:
            raise ValueError("a stop string must not be empty")
        node = 0
        for depth, char in enumerate(stop, 1):
            if char not in self.children[node]:
                self.children[node][char] = len(self.children)
                self.children.append({})
                self.depth.append(depth)
                self.stop_length.append(0)
            node = self.children[node][char]
        self.stop_length[node] = len(stop)

    def _link(self) -> None:
        """Breadth first, so that the fallback of a node is complete before the node."""
        queue = deque(self.children[0].values())
        while queue:
            node = queue.popleft()
            self.stop_length[node] = self.stop_length[node] or self.stop_length[self.fallback[node]]
            for char, child in self.children[node].items():
                suffix = self.fallback[node]
                while suffix and char not in self.children[suffix]:
                    suffix = self.fallback[suffix]
                self.fallback[child] = self.children[suffix].get(char, 0)
                queue.append(child)


class StopStrings:
    """Finds the first of several stop strings in a text that comes in pieces.

    The match that begins first wins, and of those that begin together the one completed first; how
    the text was cut into pieces never matters. Only what may still become a stop string is held
    back. Time is linear, for any text and any number of stops.
    """

    matched: str | None
    """The stop string that ended the text; look again after `finish`."""

    def __init__(self, stops: Sequence[str] | StopAutomaton) -> None:
        self.matched = None
        self._automaton = stops if isinstance(stops, StopAutomaton) else StopAutomaton(stops)
        self._node = 0
        self._held = ""  # ends with the prefix that `_node` stands for
        self._match: tuple[int, int] | None = None  # the best so far, begin and end in `_held`

    def feed(self, text: str) -> str:
        """What may be shown now. After a match nothing is."""
        if self.matched is not None:
            return ""
        automaton, node, match = self._automaton, self._node, self._match
        children, stop_length = automaton.children, automaton.stop_length
        held = self._held + text
        for end, char in enumerate(text, len(self._held) + 1):
            while (child := children[node].get(char)) is None and node:
                node = automaton.fallback[node]
            node = child or 0
            if stop_length[node]:
                begin = end - stop_length[node]
                if match is None or begin < match[0]:
                    match = begin, end
            # A match stands once nothing that began before it can still become one.
            if match is not None and end - automaton.depth[node] >= match[0]:
                return self._end(held, match)
        num_shown = len(held) - automaton.depth[node]
        self._node, self._held = node, held[num_shown:]
        if match is not None:
            self._match = match[0] - num_shown, match[1] - num_shown
        return held[:num_shown]

    def finish(self) -> str:
        """What was held back, as the text goes on no further; up to a stop string if it has one."""
        if self._match is not None:
            return self._end(self._held, self._match)
        held, self._held, self._node = self._held, "", 0
        return held

    def _end(self, held: str, match: tuple[int, int]) -> str:
        begin, end = match
        self.matched = held[begin:end]
        self._held, self._node, self._match = "", 0, None
        return held[:begin]
