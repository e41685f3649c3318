"""StreamDecoder: joined deltas are the text, whole characters only, for any ids in any pieces."""

from hypothesis import given
from hypothesis import strategies as st

from server.text import StreamDecoder

token_tables = st.lists(st.binary(max_size=5), min_size=1, max_size=30)
BYTES = [bytes([byte]) for byte in range(256)]


def decode_in_pieces(decoder: StreamDecoder, pieces: list[list[int]]) -> str:
    return "".join([decoder.add(piece) for piece in pieces]) + decoder.finish()


@given(token_tables, st.data())
def test_joined_deltas_are_the_bytes_decoded_at_once(table, data):
    token_ids = st.integers(0, len(table) - 1)
    pieces = data.draw(st.lists(st.lists(token_ids, max_size=4), max_size=15))
    whole = b"".join(table[token_id] for piece in pieces for token_id in piece)
    text = decode_in_pieces(StreamDecoder(table), pieces)
    assert text == whole.decode("utf-8", "replace")


@given(st.binary(max_size=40), st.integers(1, 5))
def test_bytes_that_are_no_text_come_out_as_python_decodes_them(data, piece_size):
    pieces = [list(data[i : i + piece_size]) for i in range(0, len(data), piece_size)]
    assert decode_in_pieces(StreamDecoder(BYTES), pieces) == data.decode("utf-8", "replace")


@given(st.text(max_size=20))
def test_a_character_comes_whole_with_its_last_byte(text):
    decoder = StreamDecoder(BYTES)
    for char in text:
        *first, last = char.encode()
        assert [decoder.add([byte]) for byte in first] == [""] * len(first)
        assert decoder.add([last]) == char
    assert decoder.finish() == ""


def test_an_incomplete_character_is_replaced_only_at_the_end():
    decoder = StreamDecoder(BYTES)
    assert decoder.add("né😀".encode()[:-1]) == "né"
    assert decoder.add([]) == ""
    assert decoder.finish() == "\ufffd"
    assert decoder.finish() == ""


def test_ids_the_vocabulary_does_not_have_add_nothing():
    decoder = StreamDecoder([b"a", b"b"])
    assert decoder.add([0, 2, 49_999, 1]) == "ab"


def test_the_space_of_a_documents_first_word_is_left_out_after_bos_only():
    table = [b"", b" once", b" upon", b""]
    assert decode_in_pieces(StreamDecoder(table, 0), [[0], [3], [1], [2]]) == "once upon"
    assert decode_in_pieces(StreamDecoder(table, 0), [[0, 1, 2]]) == "once upon"
    assert decode_in_pieces(StreamDecoder(table, 0), [[], [1, 0, 2]]) == " once upon"
    assert decode_in_pieces(StreamDecoder(table), [[0, 1, 2]]) == " once upon"


def test_that_space_is_left_out_after_the_name_of_bos_too():
    table = [b"<s>", b" once", b" upon", b""]
    assert decode_in_pieces(StreamDecoder(table, 0), [[0], [3], [1], [2]]) == "<s>once upon"
    assert decode_in_pieces(StreamDecoder(table, 0), [[0, 1, 2]]) == "<s>once upon"
    assert decode_in_pieces(StreamDecoder(table, 9), [[9, 1, 0, 2]]) == "once<s> upon"
