"""Agent: the one process per host that supervises instances, watches, responds and serves the API."""
