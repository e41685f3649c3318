"""tokenizer.json: byte-level and SentencePiece-like files, compared with their own library."""

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from engine import CheckpointError, TokenizerData
from server.tokenizer import load_tokenizer

CORPUS = ["The quick brown fox jumps over the lazy dog.", "once upon a time there was a café"]


def data_for(path: Path | None, *, bos: int | None = 1, add_bos: bool = False) -> TokenizerData:
    return TokenizerData(
        kind="tokenizer.json",
        tokens=None,
        token_types=None,
        merges=None,
        pre=None,
        json_path=path,
        bos_token_id=bos,
        eos_token_ids=(2,),
        add_bos=add_bos,
        chat_template=None,
    )


def special(content: str) -> AddedToken:
    return AddedToken(content, special=True, normalized=False)


@pytest.fixture(scope="module")
def byte_level() -> tokenizers.Tokenizer:
    """As GPT-2, Llama 3 and Qwen have it; the ids 0 to 2 are special."""
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.train_from_iterator(
        CORPUS,
        tokenizers.trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=[special(name) for name in ("<unk>", "<s>", "</s>")],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    library.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    return library


@pytest.fixture(scope="module")
def sentence_piece() -> tokenizers.Tokenizer:
    """As Llama 2 and Mistral have it: spaces are `▁`, unknown characters are byte tokens."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += ["▁", *"abcdefghijklmnopqrstuvwxyz", "▁t", "he", "▁the", "▁a"]
    library = tokenizers.Tokenizer(
        models.BPE(
            vocab={name: token_id for token_id, name in enumerate(names)},
            merges=[("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "a")],
            unk_token=names[0],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    library.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    library.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    library.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    library.add_special_tokens([special(name) for name in ("<unk>", "<s>", "</s>")])
    return library


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture(scope="module")
def byte_level_tokenizer(byte_level, folder):
    byte_level.save(str(folder / "byte_level.json"))
    return load_tokenizer(data_for(folder / "byte_level.json"))


@pytest.fixture(scope="module")
def sentence_piece_tokenizer(sentence_piece, folder):
    sentence_piece.save(str(folder / "sentence_piece.json"))
    return load_tokenizer(data_for(folder / "sentence_piece.json"))


# A text that begins with the name of BOS gets no second one (test_byte_level_tokenizer.py).
PLAIN_TEXT = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="▁")).filter(
    lambda text: not text.startswith("<s>")
)


@given(text=st.text())
def test_byte_level_agrees_with_the_library(byte_level, byte_level_tokenizer, text):
    token_ids = byte_level_tokenizer.encode(text)
    assert token_ids == (byte_level.encode(text).ids or [1])
    assert byte_level_tokenizer.decode(token_ids) == byte_level.decode(token_ids) == text


@given(text=PLAIN_TEXT)
def test_sentence_piece_agrees_with_the_library(sentence_piece, sentence_piece_tokenizer, text):
    token_ids = sentence_piece_tokenizer.encode(text)
    assert token_ids == sentence_piece.encode(text).ids
    assert sentence_piece_tokenizer.decode(token_ids) == sentence_piece.decode(token_ids) == text


@given(text=PLAIN_TEXT)
def test_sentence_piece_with_special_tokens_round_trips(sentence_piece_tokenizer, text):
    token_ids = sentence_piece_tokenizer.encode(text)
    shown = sentence_piece_tokenizer.decode(token_ids, skip_special_tokens=False)
    assert shown == "<s>" + text
    assert sentence_piece_tokenizer.encode(shown) == token_ids


@pytest.mark.parametrize("kind", ["byte_level_tokenizer", "sentence_piece_tokenizer"])
@given(data=st.data())
def test_any_ids_stream_as_they_decode(request, kind, data):
    tokenizer = request.getfixturevalue(kind)
    token_ids = st.integers(0, tokenizer.vocab_size + 5)
    pieces = data.draw(st.lists(st.lists(token_ids, max_size=3), max_size=12))
    decoder = tokenizer.stream_decoder()
    text = "".join([decoder.add(piece) for piece in pieces]) + decoder.finish()
    assert text == tokenizer.decode([token_id for piece in pieces for token_id in piece])


def test_special_tokens_are_parsed_and_not_decoded(byte_level_tokenizer):
    token_ids = byte_level_tokenizer.encode("<s>the<tool></s>")
    assert (token_ids[0], token_ids[-1]) == (1, 2)
    assert byte_level_tokenizer.decode(token_ids) == "the<tool>"
    assert byte_level_tokenizer.token_text(2) == "</s>"


def test_bos_is_the_post_processors_or_the_configurations(byte_level, folder):
    path = folder / "bos.json"
    byte_level.save(str(path))
    assert load_tokenizer(data_for(path)).encode("the")[0] != 1
    assert load_tokenizer(data_for(path, add_bos=True)).encode("the")[0] == 1
    assert load_tokenizer(data_for(path, bos=None)).encode("") == [2]


def test_generated_text_keeps_the_space_before_its_first_word(sentence_piece_tokenizer):
    prompt_ids = sentence_piece_tokenizer.encode("the")
    more_ids = sentence_piece_tokenizer.encode("a b")[1:]
    assert sentence_piece_tokenizer.decode(prompt_ids) == "the"
    assert sentence_piece_tokenizer.decode(more_ids) == " a b"
    assert sentence_piece_tokenizer.decode(prompt_ids + more_ids) == "the a b"


def test_token_text_and_limits(sentence_piece_tokenizer):
    assert sentence_piece_tokenizer.token_text(3 + 0xE2) == "bytes:\\xe2"
    assert sentence_piece_tokenizer.token_text(3 + 0x41) == "A"
    (token_id,) = sentence_piece_tokenizer.encode("the")[1:]
    assert sentence_piece_tokenizer.token_text(token_id) == " the"
    assert sentence_piece_tokenizer.max_token_bytes == len("<unk>")


def test_truncation_and_padding_of_the_file_are_off(byte_level, folder):
    path = folder / "truncated.json"
    content = json.loads(byte_level.to_str())
    content["truncation"] = {
        "direction": "Right",
        "max_length": 2,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    path.write_text(json.dumps(content))
    assert load_tokenizer(data_for(path)).encode("zzzz") == byte_level.encode("zzzz").ids


def test_lone_surrogates_are_a_value_error(byte_level_tokenizer):
    with pytest.raises(ValueError, match="surrogates"):
        byte_level_tokenizer.encode("\udfff")


def test_a_decoder_that_is_not_supported_is_named(byte_level, folder):
    path = folder / "word_piece.json"
    content = json.loads(byte_level.to_str())
    content["decoder"] = json.loads(decoders.WordPiece().__getstate__())
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"word_piece\.json: the decoder .*WordPiece"):
        load_tokenizer(data_for(path))


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"version": "1.0"}', b"\xff"])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read"):
        load_tokenizer(data_for(path))


def test_a_folder_without_tokenizer_is_told_what_it_needs():
    with pytest.raises(CheckpointError, match=r"needs a tokenizer\.json"):
        load_tokenizer(data_for(None))
