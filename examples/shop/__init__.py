"""The demo shop: a real nginx from Debian packages, a small site, and a CGI endpoint with a planted command injection.

`build` makes its OCI layout (images `v1` and `v2`); `v1/` and `v2/` hold what differs, `shared/` what does not.
"""
