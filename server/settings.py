"""What the operator asks for: command line, environment (`OCTAVO_*`), TOML file, in this order.

The only reader of the environment. Defaults are written once: here, or in EngineConfig.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, ByteSize, Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from engine import BUILTIN_MODEL, EngineConfig, default_cache_dir
from server.hosts import parse_hosts
from server.wire.limits import MAX_BODY_BYTES, MAX_CONNECTIONS, STALL_SECONDS

_ENGINE = EngineConfig(model_path="")


class Settings(BaseSettings):
    """Each field is an option of `octavo serve`, a variable OCTAVO_<NAME> and a key of the file.

    None and "auto" mean: let the engine choose by machine and model.
    """

    model_config = SettingsConfigDict(
        env_prefix="OCTAVO_",
        extra="forbid",
        populate_by_name=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    model: str = Field(
        BUILTIN_MODEL, description="The built-in model's name, a .gguf file, a folder or a hub id."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Names in Host headers that are answered, joined by commas: exact ones, "
        "*.example.com, or * for any. By default any, on a loopback address those of this machine.",
    )
    api_key: SecretStr | None = Field(
        None, description="The key that clients must send; commas separate several."
    )
    api_key_file: Path | None = Field(
        None, description="A file with a key on each line; lines that start with # are comments."
    )
    served_model_name: str | None = Field(
        None, description="The model's name in the API; commas separate aliases."
    )
    model_alias_any: bool = Field(
        False, description="Take any model's name in a request for an alias of this one."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(_ENGINE.device, description="Where to run.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        _ENGINE.dtype, description="Number type of the computation."
    )
    load_format: Literal["auto", "dummy"] = Field(
        _ENGINE.load_format, description="'dummy': random weights of the model's shape."
    )
    quantization: Literal["auto", "none", "int8", "int4"] = Field(
        _ENGINE.quantization,
        description="Weights: as the file has them, plain, or rounded to 8 or 4 bits.",
    )
    generation_config: Literal["auto", "off"] = Field(
        "auto",
        description="'auto': the model's generation_config.json says which tokens end a text too; "
        "its sampling parameters are shown, never imposed. 'off': it is not used.",
    )
    kv_cache_memory: ByteSize | None = Field(
        None, description="Memory for the KV cache, as in 2GiB."
    )
    gpu_memory_utilization: float = Field(
        _ENGINE.gpu_memory_utilization,
        gt=0,
        le=1,
        description="Share of a GPU's memory to use, where --kv-cache-memory does not say.",
    )
    max_num_seqs: int | None = Field(None, ge=1, description="Sequences that run at one time.")
    max_num_batched_tokens: int | None = Field(
        None, ge=1, description="Tokens computed in one step."
    )
    max_model_len: int | None = Field(
        None, ge=1, description="Longest prompt and completion together, in tokens."
    )
    num_threads: int | None = Field(None, ge=1, description="Threads of the CPU kernels.")
    block_size: int = Field(
        _ENGINE.block_size,
        ge=16,
        multiple_of=16,
        description="Tokens in a KV cache page, a multiple of 16: so many are computed at once.",
    )
    enable_prefix_caching: bool = Field(
        _ENGINE.enable_prefix_caching, description="Reuse the KV cache of equal prompt beginnings."
    )
    max_drafts: int | None = Field(
        None,
        ge=0,
        le=64,
        description="Tokens guessed ahead at most, from what the text repeats; 0: none. "
        "Changes no output.",
    )
    cache_dir: Path = Field(
        default_factory=default_cache_dir,
        validation_alias=AliasChoices("OCTAVO_CACHE", "OCTAVO_CACHE_DIR"),
        description="Where downloads and built kernels are kept; by default ~/.cache/octavo.",
    )
    model_dirs: Annotated[tuple[Path, ...], NoDecode] = Field(
        (),
        description="Read-only folders laid out like the cache and searched before it, "
        f"joined by {os.pathsep!r}.",
    )
    offline: bool = Field(False, description="Never use the network.")
    allow_unknown_params: bool = Field(
        False, description="Ignore unknown request parameters instead of refusing them."
    )
    sse_keep_alive_seconds: float = Field(
        15.0, gt=0, description="Silence of a stream after which a comment is sent."
    )
    metrics_compat: Literal["none", "vllm"] = Field(
        "none", description="'vllm': /metrics also has every metric under vLLM's prefix."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto",
        description="JSON lines on standard output, or text on standard error; 'auto' is text on a "
        "terminal and JSON elsewhere.",
    )
    log_prompts: bool = Field(False, description="Put prompts into the log.")
    max_queue_requests: int = Field(
        512, ge=1, description="Requests that may wait for their first token."
    )
    max_queue_tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens that they may need, prompts and completions; by default what fills "
        "the KV cache 8 times.",
    )
    requests_per_minute: int | None = Field(
        None, ge=1, description="Requests of one API key, or address where there are no keys."
    )
    tokens_per_minute: int | None = Field(
        None, ge=1, description="Their tokens, prompts and completions."
    )
    request_timeout: float = Field(
        600.0, ge=0, description="Seconds that one request may take; 0: any time."
    )
    stream_stall_timeout: float = Field(
        STALL_SECONDS, gt=0, description="Seconds until a client that stopped reading is cut off."
    )
    engine_timeout: float = Field(
        _ENGINE.engine_timeout,
        gt=0,
        description="Seconds without a finished step after which the engine is taken to hang and "
        "is replaced. More for models that are slow here.",
    )
    drain_timeout: float = Field(
        30.0,
        ge=0,
        description="Seconds that open requests get after the signal to stop. Less than what the "
        "container's platform waits before it kills.",
    )
    max_connections: int = Field(
        MAX_CONNECTIONS,
        ge=1,
        description="Connections at a time; less where few files may be open.",
    )
    max_body_memory: ByteSize | None = Field(
        None,
        ge=MAX_BODY_BYTES,
        description="Memory for large request bodies, all together; by default that of 64 of the "
        "largest.",
    )
    share_prefix_cache: bool = Field(
        False, description="Let API keys reuse each other's cached prompt beginnings."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="How much to log."
    )

    @field_validator("model_dirs", mode="before")
    @classmethod
    def _split_paths(cls, value: object) -> object:
        if isinstance(value, str):
            return [path for path in value.split(os.pathsep) if path]
        return value

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: object) -> object:
        return parse_hosts(value) if isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    def engine_config(self, model_path: Path) -> EngineConfig:
        """The engine's part, for a model that was found at `model_path`."""
        return EngineConfig(
            model_path=str(model_path),
            device=self.device,
            dtype=self.dtype,
            load_format=self.load_format,
            quantization=self.quantization,
            block_size=self.block_size,
            # A plain number: the message to the engine takes no ByteSize.
            kv_cache_memory=None if self.kv_cache_memory is None else int(self.kv_cache_memory),
            gpu_memory_utilization=self.gpu_memory_utilization,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_model_len=self.max_model_len,
            enable_prefix_caching=self.enable_prefix_caching,
            num_threads=self.num_threads,
            max_drafts=self.max_drafts,
            cache_dir=str(self.cache_dir),
            engine_timeout=self.engine_timeout,
        )


def wants_traces() -> bool:
    """Whether OpenTelemetry's standard variables name somebody to send traces to."""
    endpoints = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    is_disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    is_off = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"
    return any(os.environ.get(name) for name in endpoints) and not (is_disabled or is_off)


def load_settings(options: dict[str, Any], config: Path | None = None) -> Settings:
    """Settings from the command line's `options`, the environment and the file `config`.

    Raises pydantic's ValidationError, OSError, UnicodeDecodeError or tomllib.TOMLDecodeError for
    what the user gave, CheckpointError when there is no place for a cache.
    """
    config = config_file(config)
    if config is not None:
        config.open("rb").close()  # pydantic-settings would pass over a missing file

    return _with_file(config)(**options)


def load_origins(options: dict[str, Any], config: Path | None = None) -> dict[str, str]:
    """Where the value of each setting comes from: "option", "environment", "file" or "default".

    For what `load_settings` has read, accepted or not.
    """
    cls = _with_file(config_file(config))
    found = {
        "file": TomlConfigSettingsSource(cls)(),
        "environment": EnvSettingsSource(cls)(),
        "option": options,
    }
    origins = dict.fromkeys(cls.model_fields, "default")
    for origin, values in found.items():
        names = {name.lower().removeprefix("octavo_") for name in values}
        origins |= dict.fromkeys(names & origins.keys(), origin)
        if "cache" in names:  # the variable's name
            origins["cache_dir"] = origin
    return origins


def config_file(option: Path | None) -> Path | None:
    """The file that is read: the option's, or the environment's."""
    return option or (Path(os.environ["OCTAVO_CONFIG"]) if "OCTAVO_CONFIG" in os.environ else None)


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return "OCTAVO_CACHE" if name == "cache_dir" else f"OCTAVO_{name.upper()}"


def misspelt_variables() -> dict[str, str]:
    """Variables that nobody reads, by their name, and the setting's that was probably meant."""
    known = [variable_of(name) for name in Settings.model_fields]
    others = {"OCTAVO_CACHE_DIR", "OCTAVO_CONFIG", "OCTAVO_BASE_URL"}  # the last is the client's
    unknown = {name for name in os.environ if name.upper().startswith("OCTAVO_")}
    close = {
        name: get_close_matches(name.upper(), known, n=1, cutoff=0.85)
        for name in sorted(unknown)
        if name.upper() not in others.union(known)
    }
    return {name: found[0] for name, found in close.items() if found}


def _with_file(config: Path | None) -> type[Settings]:
    class FileSettings(Settings):
        model_config = SettingsConfigDict(toml_file=config)

    return FileSettings
