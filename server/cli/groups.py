"""The headings under which the help of `octavo serve` has its options."""

from __future__ import annotations

import click

GROUPS = {
    "Where it listens": ["host", "port", "allowed_hosts", "max_connections"],
    "Model": [
        "served_model_name",
        "model_alias_any",
        "load_format",
        "quantization",
        "generation_config",
        "max_model_len",
        "model_dirs",
        "cache_dir",
        "offline",
    ],
    "Machine": ["device", "dtype", "num_threads", "kv_cache_memory", "gpu_memory_utilization"],
    "Scheduling": [
        "max_num_seqs",
        "max_num_batched_tokens",
        "block_size",
        "enable_prefix_caching",
        "share_prefix_cache",
        "max_drafts",
    ],
    "Who may ask, and how much": [
        "api_key",
        "api_key_file",
        "requests_per_minute",
        "tokens_per_minute",
        "max_queue_requests",
        "max_queue_tokens",
        "max_body_memory",
        "allow_unknown_params",
    ],
    "Time": [
        "request_timeout",
        "stream_stall_timeout",
        "sse_keep_alive_seconds",
        "engine_timeout",
        "drain_timeout",
    ],
    "Logs and metrics": ["log_level", "log_format", "log_prompts", "metrics_compat"],
}


class GroupedCommand(click.Command):
    """A command whose help has its options under these headings; what is new comes last."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rest = {
            param.name: record
            for param in self.get_params(ctx)
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx))
        }
        for heading, names in GROUPS.items():
            rows = [rest.pop(name) for name in names if name in rest]
            _write(formatter, heading, rows)
        _write(formatter, "Options", list(rest.values()))


def _write(formatter: click.HelpFormatter, heading: str, rows: list[tuple[str, str]]) -> None:
    if rows:
        with formatter.section(heading):
            formatter.write_dl(rows)
