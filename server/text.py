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
    it is left out after `document_start_id` at the very beginning.
    """

    def __init__(self, token_bytes: Sequence[bytes], document_start_id: int | None = None) -> None:
        self._token_bytes = token_bytes
        self._document_start_id = document_start_id
        self._at_beginning = document_start_id is not None
        self._drops_space = False
        self._incomplete = b""

    def add(self, token_ids: Sequence[int]) -> str:
        """The characters that `token_ids` complete; never half a character."""
        try:
            data = b"".join([self._token_bytes[token_id] for token_id in token_ids])
        except IndexError:  # models round the number of ids up; the vocabulary has no such tokens
            num_known = len(self._token_bytes)
            data = b"".join([self._token_bytes[i] for i in token_ids if i < num_known])
        if self._at_beginning and token_ids:
            self._at_beginning = False
            self._drops_space = token_ids[0] == self._document_start_id
        if self._drops_space and data:
            self._drops_space = False
            data = data.removeprefix(b" ")
        if self._incomplete:
            data = self._incomplete + data
        text, num_consumed = codecs.utf_8_decode(data, "replace", False)
        self._incomplete = data[num_consumed:]
        return text

    def finish(self) -> str:
        """What an incomplete last character leaves: U+FFFD, or nothing."""
        data, self._incomplete = self._incomplete, b""
        return data.decode("utf-8", "replace")


class StopStrings:
    """Finds the first of several stop strings in a text that comes in pieces.

    The match that begins first wins, and of those that begin together the one completed first; how
    the text was cut into pieces never matters. Only what may still become a stop string is held
    back. The matcher is Aho and Corasick's automaton (CACM 18(6), 1975): linear time for any text
    and any number of stops. Raises ValueError for an empty stop string.
    """

    matched: str | None
    """The stop string that ended the text. Look again after `finish`."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.matched = None
        # A node is a prefix of some stop string; node 0 is the empty one.
        self._children: list[dict[str, int]] = [{}]
        self._depth = [0]
        self._stop_length = [0]  # of the longest stop string that ends at the node
        for stop in stops:
            self._insert(stop)
        self._fallback = self._link()
        self._node = 0
        self._held = ""  # always ends with the prefix that `_node` stands for
        self._candidate: tuple[int, int] | None = None  # a match, begin and end within `_held`

    def feed(self, text: str) -> str:
        """What may be shown now. After a match nothing is."""
        if self.matched is not None:
            return ""
        children, fallback, node = self._children, self._fallback, self._node
        num_held = len(self._held)
        held = self._held + text
        for end, char in enumerate(text, num_held + 1):
            while (child := children[node].get(char)) is None and node:
                node = fallback[node]
            node = child or 0
            if self._stop_length[node]:
                begin = end - self._stop_length[node]
                if self._candidate is None or begin < self._candidate[0]:
                    self._candidate = begin, end
            # A match is final once nothing that began before it can still become one.
            if self._candidate is not None and end - self._depth[node] >= self._candidate[0]:
                return self._cut(held)
        num_shown = len(held) - self._depth[node]
        if self._candidate is not None:
            begin, end = self._candidate
            self._candidate = begin - num_shown, end - num_shown
        self._node, self._held = node, held[num_shown:]
        return held[:num_shown]

    def finish(self) -> str:
        """What was held back and turned out not to be (or to come before) a stop string."""
        if self._candidate is not None and self.matched is None:
            return self._cut(self._held)
        shown, self._held, self._node = self._held, "", 0
        return shown

    def _cut(self, held: str) -> str:
        assert self._candidate is not None  # noqa: S101
        begin, end = self._candidate
        self.matched = held[begin:end]
        self._held, self._node = "", 0
        return held[:begin]

    def _insert(self, stop: str) -> None:
        if not stop:
            raise ValueError("a stop string must not be empty")
        node = 0
        for depth, char in enumerate(stop, 1):
            if char not in self._children[node]:
                self._children[node][char] = len(self._children)
                self._children.append({})
                self._depth.append(depth)
                self._stop_length.append(0)
            node = self._children[node][char]
        self._stop_length[node] = len(stop)

    def _link(self) -> list[int]:
        """For each node the longest proper suffix of it that is a node too, breadth first."""
        fallback = [0] * len(self._children)
        queue = deque(self._children[0].values())
        while queue:
            node = queue.popleft()
            self._stop_length[node] = self._stop_length[node] or self._stop_length[fallback[node]]
            for char, child in self._children[node].items():
                suffix = fallback[node]
                while suffix and char not in self._children[suffix]:
                    suffix = fallback[suffix]
                fallback[child] = self._children[suffix].get(char, 0)
                queue.append(child)
        return fallback
