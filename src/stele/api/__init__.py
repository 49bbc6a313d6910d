"""API: the HTTP interface of the agent, and its client. Thin: parse, call flow, render JSON."""
