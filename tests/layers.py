"""The table of DESIGN as code: who may import whom, and the exceptions to the house rules.

`test_architecture.py` holds the modules against it. A module obeys the row with the longest name
that is a prefix of its own.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """What the modules of one row may import: our modules by prefix, others by top-level name.

    A name that ends in "." means the package alone, without what lies in it. Modules may always
    import what lies under their own row's name, and the standard library.
    """

    ours: tuple[str, ...] = ()
    others: frozenset[str] = frozenset()


def layer(ours: str = "", others: str = "") -> Layer:
    return Layer(tuple(ours.split()), frozenset(others.split()))


CONTRACTS = "engine.errors engine.config engine.request engine.info"
TENSORS = "torch numpy"
WEB = (
    "fastapi starlette pydantic pydantic_core pydantic_settings uvicorn uvloop httptools msgspec "
    "click rich prometheus_client"
)

LAYERS = {
    # The client is a distribution of its own and knows nothing of ours.
    "octavo_client": layer(others="httpx pydantic typing_extensions"),
    "octavo_client._many": layer("octavo_client"),
    "octavo_client._progress": layer("octavo_client._many", "rich"),
    "octavo_client.cli": layer("octavo_client", "click rich"),
    "octavo_client.options": layer("octavo_client", "click"),
    "octavo_client.grouped_help": layer(others="click"),
    "octavo_client.parameters": layer("octavo_client.grouped_help", "click"),
    "octavo_client.screen": layer(),
    "octavo_client.printers": layer("octavo_client", "click rich"),
    "octavo_client.probabilities": layer("octavo_client._types octavo_client.screen", "rich"),
    "octavo_client.complete": layer("octavo_client", "click"),
    "octavo_client.completion": layer(others="click"),
    "octavo_client.chat": layer("octavo_client", "click"),
    "octavo_client.chat.conversation": layer(),
    "octavo_client.chat.reading": layer(others="click prompt_toolkit"),
    "octavo_client.bench": layer("octavo_client", "httpx"),
    "octavo_client.bench.report": layer("octavo_client", "rich"),
    "octavo_client.bench.command": layer("octavo_client", "click rich"),
    "octavo_client.__main__": layer("octavo_client"),
    # The server sees the engine's facade and nothing behind it.
    "server": layer("engine.", f"{WEB} tiktoken tokenizers"),
    "server.tokenizer.sentencepiece_model": layer("engine. server.tokenizer", "sentencepiece"),
    # Run as a process of its own, on what strangers wrote.
    "server.chat.render": layer(others="jinja2"),
    # The bottom: plain data.
    "engine.errors": layer(),
    "engine.config": layer(),
    "engine.request": layer(),
    "engine.info": layer(),
    "engine.stats": layer(),
    "engine.batch": layer("engine.request"),
    "engine.messages": layer("engine.config engine.info engine.request engine.stats", "msgspec"),
    # Policy, tested without torch. The runner is a Protocol in `batch`.
    "engine.scheduling": layer("engine.batch engine.config engine.request"),
    "engine.calibration": layer("engine.batch engine.config engine.request"),
    "engine.core": layer(
        "engine.scheduling engine.batch engine.stats engine.request engine.config"
    ),
    # Files on disk, without torch.
    "engine.checkpoint": layer("engine.errors", "numpy huggingface_hub"),
    # The seam. The parent's side never imports what the child needs.
    "engine": layer(f"{CONTRACTS} engine.stats engine.client engine.checkpoint. engine.examine"),
    "engine.limits": layer(),
    "engine.examine": layer("engine.config engine.limits engine.processor"),
    "engine.channel": layer("engine.errors engine.messages", "msgspec"),
    "engine.watchdog": layer(),
    "engine.background_log": layer(),
    "engine.child": layer(f"{CONTRACTS} engine.messages engine.channel engine.watchdog"),
    "engine.supervisor": layer(f"{CONTRACTS} engine.messages engine.child"),
    "engine.submissions": layer("engine.request engine.messages"),
    "engine.client": layer(
        f"{CONTRACTS} engine.stats engine.messages engine.submissions engine.supervisor"
    ),
    "engine.process": layer(
        f"{CONTRACTS} engine.stats engine.batch engine.messages engine.channel engine.core "
        "engine.calibration engine.background_log "
        "engine.runner"
    ),
    # Tensors.
    "engine.attention": layer("engine.batch", TENSORS),
    "engine.staging": layer(others=TENSORS),
    "engine.step_inputs": layer("engine.batch engine.request"),
    "engine.graphs": layer("engine.attention engine.batch engine.request", TENSORS),
    "engine.bring_up": layer(
        f"{CONTRACTS} engine.batch engine.device engine.graphs engine.memory_profile "
        "engine.warm_up engine.checkpoint",
    ),
    "engine.warm_up": layer("engine.batch engine.config engine.request"),
    "engine.upload": layer("engine.staging", TENSORS),
    "engine.memory_profile": layer(f"{CONTRACTS} engine.batch engine.graphs", TENSORS),
    "engine.memory": layer(others=TENSORS),
    "engine.processor": layer(),
    "engine.kv_cache": layer("engine.memory engine.checkpoint", TENSORS),
    "engine.device": layer(
        f"{CONTRACTS} engine.limits engine.processor engine.kv_cache engine.checkpoint", TENSORS
    ),
    "engine.torch_probe": layer("engine.config engine.device engine.kernels", TENSORS),
    "engine.kernels": layer(
        "engine.attention engine.errors engine.memory engine.processor "
        "engine.checkpoint.cache engine.checkpoint.grouped",
        f"{TENSORS} triton",
    ),
    "engine.sampler": layer("engine.request engine.batch", TENSORS),
    "engine.sampler.triton": layer("engine.sampler", f"{TENSORS} triton"),
    "engine.models": layer(
        "engine.errors engine.attention engine.kernels engine.kv_cache engine.checkpoint", TENSORS
    ),
    "engine.weights": layer(
        "engine.errors engine.config engine.models engine.kernels engine.checkpoint engine.upload",
        TENSORS,
    ),
    "engine.weight_memory": layer("engine.errors engine.config engine.models"),
    "engine.runner": layer(
        f"{CONTRACTS} engine.batch engine.device engine.models engine.weight_memory "
        "engine.attention engine.kv_cache engine.kernels engine.weights engine.sampler "
        "engine.checkpoint engine.graphs engine.staging engine.step_inputs "
        "engine.memory_profile engine.bring_up",
        TENSORS,
    ),
}

# Where a module is chosen by name: the child's entry, and the registries. And huggingface_hub,
# which takes long to import and is needed for models of the hub alone; the facade's client, which
# needs msgspec; the client's httpx and pydantic are not needed for the help of its command, nor is
# rich without a progress bar. The web framework comes in while the engine starts, what sends traces
# where traces are wanted, and sentencepiece where a model needs it.
LATE_IMPORTS = (
    "engine.",
    "octavo_client.",
    "octavo_client._many",
    "octavo_client.printers",
    "octavo_client.chat.reading",
    "engine.process",
    "engine.kernels.",
    "engine.models.",
    "engine.sampler.draws",
    "engine.checkpoint.resolve",
    "engine.checkpoint.inventory",
    "server.cli.serve",
    "server.observe.tracing",
    "server.tokenizer.sentencepiece_model",
)
# The environment is read once, by those who read settings. Children get their parent's, and the
# cache has its place by custom.
ENVIRONMENT = (
    "server.settings",
    "octavo_client._config",
    "engine.child",
    "engine.checkpoint.cache",
    "engine.checkpoint.wheel",
    "engine.kernels.cpu.build",
)
