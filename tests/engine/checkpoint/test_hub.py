"""engine/checkpoint/hub.py: the real huggingface_hub against a hub on this machine."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import COMMIT, Hub, serving

from engine.checkpoint.hub import cached_hub_models, fetch_hub_model
from engine.errors import CheckpointError

REPO = "somebody/tiny-model"
WANTED = {
    "config.json": b"{}",
    "generation_config.json": b"{ }",
    "tokenizer.json": b"{  }",
    "tokenizer_config.json": b"{   }",
    "chat_template.jinja": b"{{ messages }}",
    "special_tokens_map.json": b"{    }",
    "model-00001-of-00002.safetensors": os.urandom(300_000),
    "model-00002-of-00002.safetensors": os.urandom(200_000),
    "model.safetensors.index.json": json.dumps(
        {
            "weight_map": {
                "a": "model-00001-of-00002.safetensors",
                "b": "model-00002-of-00002.safetensors",
            }
        }
    ).encode(),
}
UNWANTED = {
    "README.md": b"# Tiny",
    "modeling_tiny.py": b"raise SystemExit('code of a stranger ran')",
    "pytorch_model.bin": b"a pickle",
    "consolidated.safetensors": b"all weights once more",
    "onnx/model.safetensors": b"for another program",
    "tiny.Q4_0.gguf": b"GGUF" + os.urandom(100_000),
    "odd/name [x].gguf": b"GGUF of an odd name",
    "big/m-00001-of-00002.gguf": b"GGUF, the first part",
    "big/m-00002-of-00002.gguf": b"GGUF, the second part",
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub waits between its tries, and longer each time; here nobody has to."""
    hasty = SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None})
    for module in ("huggingface_hub.file_download", "huggingface_hub.utils._http"):
        monkeypatch.setattr(f"{module}.time", hasty)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub(REPO, WANTED | UNWANTED)) as hub:
        yield hub


@pytest.fixture
def hub_cache(tmp_path: Path) -> Path:
    return tmp_path / "hub"


class Fetch:
    """`fetch_hub_model` from `hub` into `hub_cache`, and the progress that it told."""

    def __init__(self, hub: Hub, hub_cache: Path) -> None:
        self.hub = hub
        self.hub_cache = hub_cache
        self.progress: list[tuple[str, float]] = []

    def __call__(
        self, file_name: str | None = None, *, repo_id: str = REPO, offline: bool = False
    ) -> Path:
        return fetch_hub_model(
            repo_id,
            file_name,
            offline=offline,
            on_progress=lambda phase, share: self.progress.append((phase, share)),
            endpoint=self.hub.endpoint,
            hub_cache=self.hub_cache,
        )


@pytest.fixture
def fetch(hub: Hub, hub_cache: Path) -> Fetch:
    return Fetch(hub, hub_cache)


def content_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_snapshot_holds_what_we_read_and_nothing_else(hub: Hub, fetch: Fetch) -> None:
    folder = fetch()
    assert folder.is_absolute()
    assert content_of(folder) == WANTED
    assert hub.downloads() == sorted(WANTED)


def test_progress_goes_from_nothing_to_all(fetch: Fetch) -> None:
    fetch()
    assert {phase for phase, _ in fetch.progress} == {f"downloading {REPO}"}
    shares = [share for _, share in fetch.progress]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert any(0.0 < share < 1.0 for share in shares)


def test_nothing_is_downloaded_twice(hub: Hub, fetch: Fetch) -> None:
    folder = fetch()
    hub.requests.clear()
    assert fetch() == folder
    assert hub.downloads() == []


def test_one_gguf_file(hub: Hub, fetch: Fetch) -> None:
    path = fetch("tiny.Q4_0.gguf")
    assert path.name == "tiny.Q4_0.gguf"
    assert path.read_bytes() == UNWANTED["tiny.Q4_0.gguf"]
    assert hub.downloads() == ["tiny.Q4_0.gguf"]
    assert fetch("tiny.Q4_0.gguf", offline=True) == path


def test_all_parts_of_a_gguf_model(hub: Hub, fetch: Fetch, hub_cache: Path) -> None:
    names = ["big/m-00001-of-00002.gguf", "big/m-00002-of-00002.gguf"]
    path = fetch(names[0])
    assert path.name == "m-00001-of-00002.gguf"
    assert sorted(hub.downloads()) == names
    second = path.with_name("m-00002-of-00002.gguf")
    assert second.read_bytes() == UNWANTED[names[1]]
    assert fetch(names[0], offline=True) == path
    assert cached_hub_models(hub_cache) == [(f"{REPO}:{names[0]}", path)]
    second.unlink()
    with pytest.raises(CheckpointError, match="offline"):
        fetch(names[0], offline=True)
    assert cached_hub_models(hub_cache) == []
    del hub.files[names[1]]
    with pytest.raises(CheckpointError, match=f"has no file {names[1]}"):
        fetch(names[0])


def test_a_file_name_is_no_pattern(fetch: Fetch) -> None:
    path = fetch("odd/name [x].gguf")
    assert path.read_bytes() == UNWANTED["odd/name [x].gguf"]
    assert fetch("odd/name [x].gguf", offline=True) == path


def test_offline_uses_the_cache_and_asks_nobody(hub: Hub, fetch: Fetch) -> None:
    folder = fetch()
    hub.requests.clear()
    assert fetch(offline=True) == folder
    assert hub.requests == []


def test_offline_and_not_cached(hub: Hub, fetch: Fetch, hub_cache: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"{REPO} is not in {hub_cache}.*once with a netw"):
        fetch(offline=True)
    fetch("tiny.Q4_0.gguf")  # another file of the repository is not the model
    with pytest.raises(CheckpointError, match="offline"):
        fetch(offline=True)
    with pytest.raises(CheckpointError, match="offline"):
        fetch("odd/name [x].gguf", offline=True)


@pytest.mark.parametrize("lost", ["config.json", "model-00002-of-00002.safetensors"])
def test_half_a_snapshot_is_not_a_model(fetch: Fetch, lost: str) -> None:
    folder = fetch()
    (folder / lost).unlink()
    with pytest.raises(CheckpointError, match="offline"):
        fetch(offline=True)
    assert content_of(fetch()) == WANTED


def test_a_snapshot_without_a_record_of_its_files_is_checked_too(
    fetch: Fetch, hub_cache: Path
) -> None:
    """huggingface_hub before 2.0 keeps no list of what a snapshot should hold."""
    folder = fetch()
    (repo,) = hub_cache.glob("models--*")
    shutil.rmtree(repo / "trees", ignore_errors=True)
    assert fetch(offline=True) == folder
    (folder / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="offline"):
        fetch(offline=True)
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model.safetensors.index.json").write_bytes(b"half a fi")
    with pytest.raises(CheckpointError, match="offline"):
        fetch(offline=True)


def test_without_a_network_the_cached_snapshot_is_used(
    hub: Hub, fetch: Fetch, unused_tcp_port: int
) -> None:
    folder = fetch()
    hub.endpoint = f"http://127.0.0.1:{unused_tcp_port}"
    assert fetch() == folder
    assert fetch.progress[-1] == (f"the hub cannot be reached, using the cached {REPO}", 1.0)


def test_without_a_network_and_a_cache(hub: Hub, fetch: Fetch, unused_tcp_port: int) -> None:
    hub.endpoint = f"http://127.0.0.1:{unused_tcp_port}"
    with pytest.raises(CheckpointError, match=rf"cannot download {REPO}: .*refused.*network"):
        fetch()


@pytest.mark.parametrize("status", [404, 401])
def test_a_missing_repository(hub: Hub, fetch: Fetch, status: int) -> None:
    hub.refuse = (status, "RepoNotFound")
    with pytest.raises(CheckpointError, match=rf"{REPO} .HTTP {status}.*spelling.*HF_TOKEN"):
        fetch()


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model(hub: Hub, fetch: Fetch, status: int) -> None:
    """The hub tells what a gated model has, and refuses its files."""
    hub.refuse_files = (status, "GatedRepo")
    with pytest.raises(CheckpointError, match=rf"HTTP {status}.*accept its terms.*HF_TOKEN"):
        fetch()


@pytest.mark.parametrize("status", [401, 403])
def test_access_denied(hub: Hub, fetch: Fetch, status: int) -> None:
    hub.refuse = (status, "")
    with pytest.raises(CheckpointError, match=rf"HTTP {status}.*HF_TOKEN"):
        fetch()


def test_a_hub_that_is_down(hub: Hub, fetch: Fetch) -> None:
    hub.refuse = (500, "")
    with pytest.raises(CheckpointError, match=rf"cannot download {REPO}: .*500") as caught:
        fetch()
    assert "\n" not in str(caught.value)


def test_a_cut_download_is_tried_again(hub: Hub, fetch: Fetch) -> None:
    hub.cut = {"model-00001-of-00002.safetensors"}
    assert content_of(fetch()) == WANTED
    assert hub.cut == set()
    assert fetch.progress[-1][1] == 1.0


def test_a_download_that_stays_cut_leaves_no_model(hub: Hub, fetch: Fetch) -> None:
    hub.cut = {"model-00001-of-00002.safetensors"}
    hub.down_after_cut = True
    with pytest.raises(CheckpointError, match=rf"cannot download {REPO}: .*503"):
        fetch()
    with pytest.raises(CheckpointError, match="offline"):
        fetch(offline=True)
    hub.refuse_files = None
    assert content_of(fetch()) == WANTED


def test_no_space(fetch: Fetch, hub: Hub, hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(hub_cache.parent)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    num_bytes = sum(len(data) for data in WANTED.values())
    with pytest.raises(CheckpointError, match=rf"{hub_cache}: {num_bytes:,} bytes are needed"):
        fetch()
    assert hub.downloads() == []


def test_a_cache_that_cannot_be_used(hub: Hub, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"cannot use the cache folder {blocked}"):
        Fetch(hub, blocked / "hub")()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["README.md"], "has no config.json"),
        (["tiny.Q4_0.gguf"], f"no config.json; name one of its GGUF .*: {REPO}:tiny.Q4_0.gguf"),
        (["config.json", "pytorch_model.bin"], r"no weights in safetensors.*never loaded"),
        (["config.json", "onnx/model.safetensors"], "no weights in safetensors"),
    ],
)
def test_not_a_model_that_can_be_served(
    hub: Hub, fetch: Fetch, files: list[str], message: str
) -> None:
    hub.files = {name: data for name, data in (WANTED | UNWANTED).items() if name in files}
    with pytest.raises(CheckpointError, match=message):
        fetch()
    assert hub.downloads() == []


def test_a_file_that_is_not_there(hub: Hub, fetch: Fetch) -> None:
    with pytest.raises(CheckpointError, match=rf"{REPO} .* no file x\.gguf; name one .*:tiny"):
        fetch("x.gguf")


def test_a_name_the_hub_does_not_take(fetch: Fetch) -> None:
    with pytest.raises(CheckpointError, match=r"cannot download some--body/x\.git: "):
        fetch(repo_id="some--body/x.git")


def test_the_commit_is_the_snapshot(fetch: Fetch) -> None:
    assert fetch().name == COMMIT
