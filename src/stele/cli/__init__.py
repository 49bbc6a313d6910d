"""CLI: parse, call flow or the agent, render. The only room that knows click and rich.

Imports lazily: `stele --version` must stay under 100 ms.
"""
