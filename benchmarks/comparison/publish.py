"""Where results are kept for readers: RESULTS.md, docs/performance.md and its plots.

RESULTS.md grows; docs/performance.md has its last part replaced, below a mark; the JSON file that
both come from lies beside the plots, so that they can be made again.
"""

from __future__ import annotations

from pathlib import Path

from comparison.growth import growth_plots
from comparison.report import heading, tables
from comparison.results import Results

MARK = "<!-- Below this line: written by benchmarks/compare.py --write -->"


def write_documents(results: Results, root: Path) -> list[Path]:
    """What was written, below the folder `root`. Raises OSError, ValueError without the mark."""
    log = root / "benchmarks/RESULTS.md"
    page = root / "docs/performance.md"
    folder = root / "docs/performance"
    text = f"{heading(results)}\n{tables(results)}"
    above, mark, _ = page.read_text(encoding="utf-8").partition(MARK)
    if not mark:
        raise ValueError(f"{page} has lost its line {MARK!r}")
    plots = growth_plots(results)
    images = "".join(f"![{Path(name).stem}](performance/{name})\n\n" for name in plots)
    log_text = log.read_text(encoding="utf-8").rstrip()
    if heading(results) not in log_text:
        log.write_text(f"{log_text}\n\n{text.rstrip()}\n", encoding="utf-8")
    page.write_text(f"{above}{MARK}\n\n{images}{text.rstrip()}\n", encoding="utf-8")
    results.save(folder / "results.json")
    for name, svg in plots.items():
        (folder / name).write_text(svg, encoding="utf-8")
    return [log, page, folder / "results.json", *(folder / name for name in plots)]
